"""State dicts of wrapped and bare models, loaded safely and explained."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixer_plugin.errors import (
    MixERError,
    MixERRuntimeError,
    MixERTypeError,
    MixERValueError,
    closest,
)
from mixer_plugin.forward.mixed import RESET, MixedModule, bare_model, mixer_of
from mixer_plugin.io.torch_file import read_torch_file, resized_positions

_PREFIXES = ("module.", "_orig_mod.")
_CONTAINERS = ("state_dict", "net", "model", "state")
_SCALARS = (bool, int, float, str)
_POSITIONS = ("pos_embed", "pos_embedding", "position_embedding", "positional_embedding")


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a checkpoint.

    Attributes:
        loaded: keys loaded into the base.
        missing: keys of the base that the checkpoint lacks.
        unexpected: keys of the checkpoint that the base lacks.
        mismatched: keys whose shapes differ.
        ignored: the checkpoint's ``mixer.*`` keys.
        advice: to reset heads that are still clones of the weights before this load; else empty.
        resized: keys of position embeddings that were resized; among ``loaded``, too.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    ignored: tuple[str, ...]
    advice: str = ""
    resized: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line per kind that occurs."""
        lines = [f"{len(self.loaded)} tensors loaded"]
        for kind in ("missing", "unexpected", "mismatched", "ignored", "resized"):
            keys = getattr(self, kind)
            if keys:
                more = ", …" if len(keys) > 5 else ""
                lines.append(f"{len(keys)} {kind}: {', '.join(keys[:5])}{more}")
        return "; ".join(lines) + (f". {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class CheckpointParts:
    """What the checkpoint of a training loop holds.

    Attributes:
        base: the base's tensors by name, without the prefixes of wrappers.
        mixer: the ``mixer.*`` tensors by full name, likewise.
        container: key that the state dict stands under; None: the checkpoint is a state dict.
        prefixes: those that were taken off.
        beside: what else the checkpoint holds, by key.
    """

    base: dict[str, Any]
    mixer: dict[str, Any]
    container: str | None
    prefixes: tuple[str, ...]
    beside: dict[str, Any]

    def __str__(self) -> str:
        """What was found, in one line."""
        where = "" if self.container is None else f" under {self.container!r}"
        counts = f"{len(self.base)} tensors of the base, {len(self.mixer)} of MixER"
        words = [f"a state dict{where}: {counts}"]
        if self.prefixes:
            words.append(f"taken off: {', '.join(self.prefixes)}")
        if self.beside:
            words.append(f"beside it: {', '.join(map(str, self.beside))}")
        return "; ".join(words)

    def under(self, state: Mapping[str, Any], container: str | None) -> dict[str, Any]:
        """A checkpoint of one part: the state dict where scripts look for it.

        Args:
            state: ``base`` or ``mixer``.
            container: key that it is to stand under, with the loop's numbers and texts (epoch,
                best result) beside it; None: a plain state dict.
        """
        # A view would be saved with all of the memory that it is a part of.
        own = {
            key: value.clone()
            if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes
            else value
            for key, value in state.items()
        }
        if container is None:
            return own
        plain = {
            # Scripts load their files with weights_only=True, which refuses NumPy's numbers.
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in self.beside.items()
            if isinstance(value, (*_SCALARS, np.generic))
        }
        return {**plain, container: own}


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
    positions: tuple[int, int] | None = None,
) -> LoadReport:
    """Loads a base checkpoint into a wrapped or bare model; the heads stay as they are.

    Takes what :func:`split_checkpoint` takes. Nothing is written before everything has been
    checked.

    Args:
        model: wrapped or bare.
        checkpoint: a path or a mapping.
        strict: refuse a checkpoint with missing, unexpected or mismatched keys.
        positions: (rows, columns) of the model's image patches: position embeddings (``pos_embed``)
            that the checkpoint has for a square of patches are resized to them, bicubically
            (Dosovitskiy et al., ICLR 2021, sec. 3.2); the class token's stays.

    Raises:
        OSError: if a path cannot be opened.
        MixERTypeError: if no state dict is found, or a value that the model needs is no dense
            tensor of its kind (floating, complex or whole numbers).
        MixERValueError: if two keys are one without their prefixes, a number is finite but too
            large for the model's dtype, or a position embedding cannot be resized to ``positions``.
        MixERRuntimeError: if ``strict`` and a key is missing, unexpected or of another shape.
    """
    bare = bare_model(model)
    with _naming(checkpoint):
        parts = split_checkpoint(_content(checkpoint))
        return _load(bare, base_state_dict(bare), parts.base, tuple(parts.mixer), strict, positions)


def load_mixer_state_dict(model: nn.Module, state: Mapping[str, Any]) -> LoadReport:
    """Loads heads, keys ``mixer.…``, into a wrapped model; the base stays as it is.

    Nothing is written before everything has been checked.

    Raises:
        MixERTypeError: if the model is not wrapped, or a value is no dense tensor of its kind.
        MixERValueError: if a number is finite but too large for the model's dtype.
        MixERRuntimeError: if a key is missing, unexpected or of another shape.
    """
    mixer_of(model)  # raises for a model that is not wrapped
    return _load(bare_model(model), mixer_state_dict(model), state, (), strict=True)


def load_checkpoint(
    model: nn.Module, checkpoint: Mapping[str, Any] | str | os.PathLike[str]
) -> LoadReport:
    """Loads a checkpoint of a wrapped model, base and heads, into a wrapped model.

    Takes what :func:`split_checkpoint` takes. Into a bare model it loads a checkpoint without
    heads. Nothing is written before everything has been checked.

    Raises:
        OSError: if a path cannot be opened.
        MixERTypeError: as :func:`load_base_state_dict`.
        MixERValueError: likewise.
        MixERRuntimeError: if the checkpoint has heads and the model has none, or the other way
            round, or a key is missing, unexpected or of another shape.
    """
    bare = bare_model(model)
    wrapped = isinstance(bare, MixedModule)
    with _naming(checkpoint):
        parts = split_checkpoint(_content(checkpoint))
        if wrapped and not parts.mixer:
            raise MixERRuntimeError(
                "The checkpoint has no mixer.* keys, and the model is wrapped: its heads would "
                "stay untrained. Use the model without MixER (mode=None, or --bare), or load the "
                "base alone with load_base_state_dict."
            )
        if parts.mixer and not wrapped:
            raise MixERRuntimeError(
                f"The checkpoint has {len(parts.mixer)} mixer.* keys, and the model is not "
                "wrapped. Wrap it first as the training did (wrap_with_mixer, or --wrap), or use "
                "the base alone (load_base_state_dict, or --bare)."
            )
        return _load(bare, bare.state_dict(), {**parts.base, **parts.mixer}, (), strict=True)


def split_checkpoint(
    checkpoint: Mapping[str, Any] | str | os.PathLike[str], *, key: str | None = None
) -> CheckpointParts:
    """Base and MixER parts of a training loop's checkpoint.

    Takes the path of a file of ``torch.save``, whose code is not run; a state dict; or a dict that
    holds one under ``state_dict``, ``net``, ``model`` or ``state``. Strips the prefixes that DDP,
    DataParallel and ``torch.compile`` add. NumPy arrays stand for tensors.

    Args:
        checkpoint: the file or its content.
        key: where the state dict stands; None: the first of the keys above that is there.

    Raises:
        OSError: if a path cannot be opened.
        MixERTypeError: if no state dict is found.
        MixERValueError: if ``key`` is not there, or two keys are one without their prefixes.
    """
    with _naming(checkpoint):
        content = _content(checkpoint)
        container, held = _state_dict(content, key)
    given = {_strip(k): v for k, v in held.items()}
    if len(given) < len(held):
        raise MixERValueError(
            f"{len(held) - len(given)} keys of the checkpoint are there with and without a prefix "
            f"({', '.join(_PREFIXES)}); keep one of each."
        )
    return CheckpointParts(
        base={k: v for k, v in given.items() if not _is_mixer(k)},
        mixer={k: v for k, v in given.items() if _is_mixer(k)},
        container=container,
        prefixes=tuple(p for p in _PREFIXES if any(p in k[: -len(_strip(k))] for k in held)),
        beside={} if container is None else {k: v for k, v in content.items() if k != container},
    )


def _content(checkpoint: Any) -> Any:
    """What a path leads to, or the checkpoint itself."""
    if isinstance(checkpoint, (str, os.PathLike)):
        return read_torch_file(checkpoint, "a checkpoint")
    return checkpoint


@contextmanager
def _naming(checkpoint: Any) -> Iterator[None]:
    """Puts the file name in front of errors about its content."""
    try:
        yield
    except MixERError as error:
        named = isinstance(checkpoint, (str, os.PathLike))
        if not named or str(error).startswith(os.fspath(checkpoint)):
            raise
        raise type(error)(f"{os.fspath(checkpoint)}: {error}") from error


def _load(
    bare: nn.Module,
    own: Mapping[str, Tensor],
    given: Mapping[str, Any],
    ignored: tuple[str, ...],
    strict: bool,
    positions: tuple[int, int] | None = None,
) -> LoadReport:
    """Loads what was given of the model's ``own`` tensors, once all of it has been checked."""
    offered = {k: _tensor_like(k, v, own[k]) if k in own else v for k, v in given.items()}
    resized = {
        k: resized_positions(k, offered[k], own[k].shape[-2], positions)
        for k in _position_keys(offered, own)
        if positions is not None
    }
    offered |= resized
    mismatched = tuple(k for k, v in offered.items() if k in own and own[k].shape != v.shape)
    report = LoadReport(
        loaded=tuple(k for k in offered if k in own and k not in mismatched),
        missing=tuple(k for k in own if k not in offered),
        unexpected=tuple(k for k in offered if k not in own),
        mismatched=mismatched,
        ignored=ignored,
        advice="" if any(map(_is_mixer, own)) else _advice(bare),
        resized=tuple(resized),
    )
    if strict and (report.missing or report.unexpected or report.mismatched):
        raise MixERRuntimeError(
            f"The checkpoint does not fit {type(bare).__name__}: {report}. "
            "Nothing was loaded. Pass strict=False to load what fits."
            f"{_position_advice(offered, own)}"
        )
    nn.Module.load_state_dict(bare, {k: offered[k] for k in report.loaded}, strict=False)
    return report


def _position_keys(offered: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Keys of position embeddings whose number of places differs, and nothing else."""
    return [
        key
        for key, value in offered.items()
        if key.rpartition(".")[2] in _POSITIONS
        and key in own
        and value.dim() == own[key].dim() >= 2
        and value.shape[-2] != own[key].shape[-2]
        and (*value.shape[:-2], value.shape[-1]) == (*own[key].shape[:-2], own[key].shape[-1])
    ]


def _position_advice(offered: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    found = [
        f"{key!r} is a position embedding of {offered[key].shape[-2]} places, and the model, for "
        f"images of another size, has {own[key].shape[-2]}"
        for key in _position_keys(offered, own)
    ]
    if not found:
        return ""
    return (
        f" {'; '.join(found)}: pass positions=(rows, columns) of the model's image patches to "
        "resize it."
    )


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


def _state_dict(checkpoint: Any, key: str | None) -> tuple[str | None, Mapping[str, Any]]:
    """Where the state dict of a checkpoint stands, and the state dict."""
    if isinstance(checkpoint, Mapping):
        inner = [k for k, v in checkpoint.items() if isinstance(v, Mapping)]
        if key is not None and key not in inner:
            raise MixERValueError(f"No state dict under {key!r}.{closest(key, map(str, inner))}")
        names: list[str | None] = [n for n in _CONTAINERS if n in inner] if key is None else [key]
        if not names and all(
            isinstance(v, (Tensor, np.ndarray, np.generic)) for v in checkpoint.values()
        ):
            names = [None]
        held = [checkpoint if name is None else checkpoint[name] for name in names[:1]]
        if held and held[0] and all(isinstance(each, str) for each in held[0]):
            return names[0], held[0]
    raise MixERTypeError(
        f"Found no state dict in the checkpoint ({type(checkpoint).__name__}); expected a mapping "
        f"of names to tensors, or one under {', '.join(_CONTAINERS)}."
    )
