"""State dicts of wrapped and bare models, loaded safely and explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mixer_plugin.errors import MixERRuntimeError, MixERTypeError
from mixer_plugin.forward.mixed import RESET, MixedModule, bare_model

_PREFIXES = ("module.", "_orig_mod.")
_CONTAINERS = ("state_dict", "net", "model")


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a checkpoint.

    Attributes:
        loaded: keys loaded into the base.
        missing: keys of the base that the checkpoint lacks.
        unexpected: keys of the checkpoint that the base lacks.
        mismatched: keys whose shapes differ.
        ignored: the checkpoint's ``mixer.*`` keys.
        advice: what to do about heads that are clones of the weights before; mostly empty.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    ignored: tuple[str, ...]
    advice: str = ""

    def __str__(self) -> str:
        """One line per kind that occurs."""
        lines = [f"{len(self.loaded)} tensors loaded"]
        for kind in ("missing", "unexpected", "mismatched", "ignored"):
            keys = getattr(self, kind)
            if keys:
                more = ", …" if len(keys) > 5 else ""
                lines.append(f"{len(keys)} {kind}: {', '.join(keys[:5])}{more}")
        return "; ".join(lines) + (f". {self.advice}" if self.advice else "")


def base_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict without ``mixer.*``: loads strictly into the bare model."""
    return {k: v for k, v in bare_model(model).state_dict().items() if not _is_mixer(k)}


def mixer_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The ``mixer.*`` part of the state dict, with full keys."""
    return {k: v for k, v in bare_model(model).state_dict().items() if _is_mixer(k)}


def load_base_state_dict(
    model: nn.Module, checkpoint: Mapping[str, Any], *, strict: bool = True
) -> LoadReport:
    """Loads a base checkpoint into a wrapped or bare model; the heads stay as they are.

    Takes a state dict, or a dict that holds one under ``state_dict``, ``net`` or ``model``, and
    strips the prefixes that DDP, DataParallel and ``torch.compile`` add. Nothing is written before
    everything has been checked.

    Raises:
        MixERTypeError: if no state dict is found.
        MixERRuntimeError: if ``strict`` and a key is missing, unexpected or of another shape.
    """
    bare = bare_model(model)
    given = {_strip(k): v for k, v in _state_dict(checkpoint).items()}
    own = base_state_dict(bare)
    ignored = tuple(k for k in given if _is_mixer(k))
    offered = {k: v for k, v in given.items() if not _is_mixer(k)}
    mismatched = tuple(k for k, v in offered.items() if k in own and own[k].shape != v.shape)
    report = LoadReport(
        loaded=tuple(k for k in offered if k in own and k not in mismatched),
        missing=tuple(k for k in own if k not in offered),
        unexpected=tuple(k for k in offered if k not in own),
        mismatched=mismatched,
        ignored=ignored,
        advice=_advice(bare),
    )
    if strict and (report.missing or report.unexpected or report.mismatched):
        raise MixERRuntimeError(
            f"The checkpoint does not fit {type(bare).__name__}: {report}. "
            "Nothing was loaded. Pass strict=False to load what fits."
        )
    nn.Module.load_state_dict(bare, {k: offered[k] for k in report.loaded}, strict=False)
    return report


def _advice(bare: nn.Module) -> str:
    """What to do about heads that are clones of the weights before."""
    return RESET if isinstance(bare, MixedModule) and bare.mixer.untouched_clones() else ""


def _is_mixer(key: str) -> bool:
    return key.startswith("mixer.")


def _strip(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.removeprefix("module.").removeprefix("_orig_mod.")
    return key


def _state_dict(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    if isinstance(checkpoint, Mapping):
        for name in _CONTAINERS:
            if isinstance(checkpoint.get(name), Mapping):
                return checkpoint[name]
        if checkpoint and all(isinstance(v, Tensor) for v in checkpoint.values()):
            return checkpoint
    raise MixERTypeError(
        f"Found no state dict in the checkpoint ({type(checkpoint).__name__}); expected a mapping "
        f"of tensors, or one under {', '.join(_CONTAINERS)}."
    )
