"""Scalars of a training run, as JSON lines or for TensorBoard; a watch over the confusion loss."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixer_plugin.errors import MissingExtraError

_WINDOW = 200
_MARGIN = 0.02  # a window's mean is this exact; at chance the loss is ln 2


def open_log(kind: str, folder: Path, name: str, start: int) -> JsonLines | TensorBoardLog | None:
    """The log of a run.

    Args:
        kind: ``jsonl`` (``<name>.log.jsonl``), ``tensorboard`` (``tensorboard/<name>``) or
            ``none``.
        folder: where; must be there.
        name: of the run.
        start: steps already made: what was logged after them, before an interruption, is dropped.

    Raises:
        MissingExtraError: if TensorBoard is asked for and not installed.
    """
    if kind == "none":
        return None
    if kind == "tensorboard":
        return TensorBoardLog(folder / "tensorboard" / name, start)
    return JsonLines(folder / f"{name}.log.jsonl", start)


class JsonLines:
    """One JSON object a record, with its step, counted from 1."""

    def __init__(self, path: Path, start: int) -> None:
        kept = []
        if start and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _step(line) <= start]
        self._file = path.open("w", encoding="utf-8")
        self._file.writelines(kept)
        self._file.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends a line."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _step(line: str) -> int:
    return int(json.loads(line)["step"])


def summary_writer() -> Any:
    """TensorBoard's writer class; raises :class:`MissingExtraError` where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "bench", "training.log: tensorboard") from error
    return SummaryWriter


class TensorBoardLog:
    """An event file, by ``torch.utils.tensorboard``."""

    def __init__(self, folder: Path, start: int) -> None:
        writer = summary_writer()
        self._writer = writer(str(folder), purge_step=start + 1 if start else None)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One curve per scalar."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is buffered."""
        self._writer.close()


class ConfusionWatch:
    """Says once when the confusion loss stays above ln 2.

    At ln 2 the modality classifier guesses. Above it for long, the reversed gradient pushes the
    trunk faster than the classifier follows: the feature then runs away from the classifier, and
    does not lose its modality.

    Args:
        warn: gets the advice.
        window: training steps of a mean.
    """

    def __init__(self, warn: Callable[[str], None], window: int = _WINDOW) -> None:
        self._warn, self._window = warn, window
        self._values: list[Tensor] = []
        self._done = False

    def see(self, confusion: Tensor | None) -> None:
        """Takes in one step's confusion loss, a detached scalar."""
        if confusion is None or self._done:
            return
        self._values.append(confusion)
        if len(self._values) < self._window:
            return
        mean = float(torch.stack(self._values).mean())
        self._values = []
        if mean > math.log(2) + _MARGIN:
            self._done = True
            self._warn(
                f"The confusion loss was {mean:.3f} on average over {self._window} steps, above "
                "ln 2 = 0.693, that of a modality classifier that guesses. The reversed gradient "
                "outruns the classifier, and the erased feature may keep its modality. Lower "
                "mixer.reversal, raise mixer.reversal_warmup, or lower mixer.lambda_confusion."
            )
