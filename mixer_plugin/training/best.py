"""The best checkpoint so far, by a named figure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixer_plugin.distributed.processes import on_main_process
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.forward.mixed import bare_model
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.io.torch_file import read_torch_file


def keep_best(
    model: nn.Module,
    figures: Mapping[str, float],
    path: str | os.PathLike[str],
    *,
    monitor: str = "mix/mAP",
    best: float | None = None,
    **beside: Any,
) -> float | None:
    """Writes a checkpoint if a figure is higher than the best so far; returns the best.

    The file holds the weights of base and heads under ``model``, the figures under ``figures``, and
    what is given beside; ``restore`` and ``load_checkpoint`` read it. It is written aside and
    renamed. Where ``torch.distributed`` is initialised, every process calls this, and the first one
    writes.

    Args:
        model: wrapped or not; also inside DDP or ``torch.compile``.
        figures: figures of :func:`evaluate_in_training`; higher is better.
        path: the file, which is replaced; its folder must be there.
        monitor: name of the figure.
        best: what the last call returned; None: a first call, which replaces an older file. A
            training that is resumed takes it from the file: :func:`best_so_far`.
        **beside: plain values to keep in the file, such as ``epoch=3``.

    Returns:
        The best figure so far, this call's included; None while there is none but NaN.

    Raises:
        MixERValueError: for an unknown figure, or a folder that does not exist.
        OSError: if the file cannot be written; the older one stays as it was.
    """
    check_name("figure", monitor, figures)
    value = float(figures[monitor])
    if not value > (float("-inf") if best is None else best):  # also where it is not a number
        return best
    content = {
        **beside,
        "model": bare_model(model).state_dict(),
        "figures": dict(figures),
        "monitor": monitor,
    }

    def write() -> None:
        with atomic_write(Path(path)) as file:
            torch.save(content, file)

    on_main_process("training", write)
    return value


def best_so_far(path: str | os.PathLike[str]) -> float | None:
    """The figure of a file of :func:`keep_best`; None where there is no file.

    Raises:
        MixERValueError: if the file is damaged, or :func:`keep_best` did not write it.
    """
    if not Path(path).exists():
        return None
    held = read_torch_file(path, "a checkpoint of keep_best")
    try:
        return float(held["figures"][held["monitor"]])
    except (KeyError, TypeError) as error:
        raise MixERValueError(
            f"{path} has no figures; expected a checkpoint of keep_best. Give another path."
        ) from error
