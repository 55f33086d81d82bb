"""State dicts of wrapped and bare models, loaded safely and explained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixer_plugin.errors import MixERError, MixERRuntimeError, MixERTypeError, MixERValueError
from mixer_plugin.forward.mixed import RESET, MixedModule, bare_model
from mixer_plugin.io.torch_file import read_torch_file

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
    model: nn.Module,
    checkpoint: Mapping[str, Any] | str | os.PathLike[str],
    *,
    strict: bool = True,
) -> LoadReport:
    """Loads a base checkpoint into a wrapped or bare model; the heads stay as they are.

    Takes the path of a file of ``torch.save``, whose code is not run; a state dict; or a dict that
    holds one under ``state_dict``, ``net`` or ``model``. Strips the prefixes that DDP, DataParallel
    and ``torch.compile`` add. NumPy arrays stand for tensors. Nothing is written before everything
    has been checked.

    Raises:
        OSError: if a path cannot be opened.
        MixERTypeError: if no state dict is found, or a value that the model needs is no dense
            tensor of its kind (floating, complex or whole numbers).
        MixERValueError: if two keys are one without their prefixes, or a number is finite but too
            large for the model's dtype.
        MixERRuntimeError: if ``strict`` and a key is missing, unexpected or of another shape.
    """
    bare = bare_model(model)
    if isinstance(checkpoint, (str, os.PathLike)):
        content = read_torch_file(checkpoint, "a checkpoint")
        try:
            return load_base_state_dict(model, content, strict=strict)
        except MixERError as error:
            raise type(error)(f"{os.fspath(checkpoint)}: {error}") from error
    held = _state_dict(checkpoint)
    given = {_strip(k): v for k, v in held.items()}
    if len(given) < len(held):
        raise MixERValueError(
            f"{len(held) - len(given)} keys of the checkpoint are there with and without a prefix "
            f"({', '.join(_PREFIXES)}); keep one of each."
        )
    own = base_state_dict(bare)
    ignored = tuple(k for k in given if _is_mixer(k))
    offered = {
        k: _tensor_like(k, v, own[k]) if k in own else v
        for k, v in given.items()
        if not _is_mixer(k)
    }
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


def _tensor_like(key: str, value: Any, own: Tensor) -> Tensor:
    """A value of a checkpoint as a tensor that can be written to ``own``, if the shapes agree."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.char in "?bBhHiIlLqQefdFD":
        # A copy: it may be read-only, or of the other byte order.
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    kinds = [(x.is_floating_point(), x.is_complex()) for x in (own, value) if _is_dense(x)]
    if len(kinds) < 2 or kinds[0] != kinds[1]:
        what = f"{value.layout} {value.dtype}" if isinstance(value, Tensor) else ""
        raise MixERTypeError(
            f"The checkpoint's {key!r} must be a dense tensor or array that {own.dtype} can hold, "
            f"got {type(value).__name__} {what}".rstrip()
            + ". Nothing was loaded."
        )
    wide = torch.complex128 if value.is_complex() else torch.float64
    if value.dtype != own.dtype and (value.to(wide).isfinite() & ~value.to(own).isfinite()).any():
        raise MixERValueError(
            f"The checkpoint's {key!r} ({value.dtype}) holds numbers beyond {own.dtype}. Nothing "
            "was loaded."
        )
    return value


def _is_dense(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_meta)
    )


def _strip(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.removeprefix("module.").removeprefix("_orig_mod.")
    return key


def _state_dict(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    if isinstance(checkpoint, Mapping):
        found = [checkpoint[n] for n in _CONTAINERS if isinstance(checkpoint.get(n), Mapping)]
        if not found and all(
            isinstance(v, (Tensor, np.ndarray, np.generic)) for v in checkpoint.values()
        ):
            found = [checkpoint]
        if found and found[0] and all(isinstance(key, str) for key in found[0]):
            return found[0]
    raise MixERTypeError(
        f"Found no state dict in the checkpoint ({type(checkpoint).__name__}); expected a mapping "
        f"of names to tensors, or one under {', '.join(_CONTAINERS)}."
    )
