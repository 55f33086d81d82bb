"""A training run's checkpoint: everything a step depends on, in a file that is whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mixer_plugin.benchmarks.training.precision import OptimPart, load_parts, parts_state
from mixer_plugin.benchmarks.training.random_state import random_state, set_random_state
from mixer_plugin.errors import MixERError, MixERRuntimeError, MixERValueError
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.io.torch_file import read_torch_file
from mixer_plugin.run_card import differences

VERSION = 1


@dataclass(frozen=True)
class RunState:
    """The state of a run from step to step, without its number of steps.

    The sampler's position and the batch's augmentation are functions of the step alone.

    Attributes:
        model: the network itself, not what DDP or ``torch.compile`` made of it.
        loop: the codebase's loop.
        parts: optimizers and scalers.
        average: of the weights, or None.
        run: what the run is, as plain values: a checkpoint of another one is refused.
    """

    model: nn.Module
    loop: nn.Module
    parts: list[OptimPart]
    average: AveragedModel | None
    run: Mapping[str, Any]


def save_checkpoint(path: Path, state: RunState, step: int) -> None:
    """Writes a checkpoint after ``step`` steps, aside, and renames it.

    Raises:
        MixERValueError: if the folder does not exist.
        OSError: if the file cannot be written; an older one stays as it was.
    """
    average = state.average
    values = {
        "version": VERSION,
        "run": dict(state.run),
        "step": step,
        "model": state.model.state_dict(),
        "loop": state.loop.state_dict(),
        "parts": parts_state(state.parts),
        "average": None
        if average is None
        else {"updates": int(average.n_averaged) - 1, "values": average.module.state_dict()},
        "random": random_state(),
    }
    with atomic_write(path) as file:
        torch.save(values, file)


def load_checkpoint(path: Path, state: RunState) -> int:
    """Loads a checkpoint into a run and returns the number of steps it had made.

    Raises:
        MixERValueError: if the checkpoint is another run's; says in what they differ.
        MixERRuntimeError: if it cannot be read, or is another version's.
    """
    advice = "Delete it to begin this training anew."
    values = read_torch_file(path, "a checkpoint", advice, MixERRuntimeError)
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise MixERRuntimeError(
            f"{path} is not a checkpoint of version {VERSION}. Delete it to begin this training "
            "anew, or continue with the version of the package that wrote it."
        )
    unlike = differences(values["run"], state.run)
    if unlike:
        raise MixERValueError(
            f"{path} is of another run (there → here): {'; '.join(unlike)}. Continue with the "
            "same configuration, or delete the file to begin anew."
        )
    state.model.load_state_dict(values["model"])
    state.loop.load_state_dict(values["loop"])
    load_parts(state.parts, values["parts"])
    if state.average is not None:
        state.average.module.load_state_dict(values["average"]["values"])
        state.average.n_averaged.fill_(values["average"]["updates"] + 1)
    set_random_state(values["random"])
    return int(values["step"])


def steps_in(path: Path) -> int | None:
    """Number of steps that a checkpoint has made; None if there is none that can be read."""
    try:
        return int(read_torch_file(path, "a checkpoint")["step"])
    except (OSError, MixERError, KeyError):
        return None


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint, and any partial file of a killed process."""
    path.unlink(missing_ok=True)
    for partial in path.parent.glob(f".{path.name}.*"):
        partial.unlink(missing_ok=True)
