"""Checkpoints that the public codebases saved, read safely and accounted for tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mixer_plugin.baselines.state_dict_diff import state_dict_diff
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.torch_file import read_torch_file

_CONTAINERS = ("net", "state_dict", "model")


@dataclass(frozen=True)
class OfficialReport:
    """What became of every tensor of a public checkpoint.

    Attributes:
        loaded: names loaded into the model.
        dead: names left out → why nothing of ours takes them.
    """

    loaded: tuple[str, ...]
    dead: Mapping[str, str]

    def __str__(self) -> str:
        """One line for what was loaded, and one per reason for leaving out."""
        lines = [f"{len(self.loaded)} tensors loaded, none missing"]
        for reason in dict.fromkeys(self.dead.values()):
            names = [name for name, why in self.dead.items() if why == reason]
            more = ", …" if len(names) > 3 else ""
            lines.append(f"{len(names)} left out ({', '.join(names[:3])}{more}): {reason}")
        return "\n".join(lines)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: a bare state dict, or one under ``net`` or another usual key.

    Only tensors and NumPy numbers are unpickled; anything else in the file is refused, not run.

    Raises:
        MixERValueError: if the file is missing, holds something else, or holds no state dict.
    """
    if not path.is_file():
        raise MixERValueError(f"No checkpoint at {path}; expected a file written by torch.save.")
    content = read_torch_file(
        path,
        "a checkpoint",
        "Only tensors and NumPy numbers are read. Load it where you trust it, and save the state "
        "dict alone.",
    )
    for name in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise MixERValueError(
            f"{path} holds no state dict; expected tensors by name, or those under "
            f"{', '.join(_CONTAINERS)}."
        )
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_checkpoint(
    path: Path, model: nn.Module, state: Mapping[str, Tensor], dead: Mapping[str, str]
) -> OfficialReport:
    """Loads a checkpoint's tensors after accounting for every one.

    Raises:
        MixERValueError: for names that are missing or unknown, or shapes that differ; nothing is
            loaded then.
    """
    own = model.state_dict()
    left_out = {
        key: reason
        for key in state
        if key not in own
        for pattern, reason in dead.items()
        if re.fullmatch(pattern, key)
    }
    unfit = state_dict_diff(own, state, left_out.__contains__)
    if unfit:
        raise MixERValueError(
            f"{path} does not fit this {type(model).__name__}: {unfit}. Nothing was loaded. "
            "Build it with the options the checkpoint was trained with (num_classes, dataset, "
            "trunk, and the network's own: parts, modality_attention, image_size …)."
        )
    model.load_state_dict({key: state[key] for key in own})
    return OfficialReport(tuple(own), left_out)
