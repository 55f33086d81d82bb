"""Turns what callers give as features and labels into checked tensors of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.io.folder import find_repeated


def feature_matrix(name: str, value: Any) -> Tensor:
    """A copy as float32 [images, width]; ``MixERValueError`` unless finite and of that shape."""
    tensor = _copy(name, value)
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise MixERValueError(
            f"{name} must be [images, width], got shape {tuple(tensor.shape)}; "
            "pool feature maps and join batches first."
        )
    given, tensor = tensor, tensor.to(torch.float32)
    largest = torch.linalg.vector_norm(tensor, ord=torch.inf, dim=1)  # NaN where a value is
    finite = largest.isfinite()
    if not finite.all():
        rows = (~finite).nonzero().flatten().tolist()
        raise MixERValueError(
            f"{name} holds values that are not finite (as float32) in {len(rows)} of {len(tensor)} "
            f"rows, first in row {rows[0]}; check the model that made them."
        )
    tiny = (largest < torch.finfo(torch.float32).tiny).nonzero().flatten()
    lost = tiny[(given[tiny] != 0).any(dim=1)]  # a row of zeros stays one
    if len(lost):
        raise MixERValueError(
            f"{name} is too small for float32 in {len(lost)} of {len(tensor)} rows, first in row "
            f"{int(lost[0])}; multiply all features by one number, which changes no cosine."
        )
    return tensor


def label_vector(name: str, value: Any) -> Tensor:
    """A copy as int64 [images]; ``MixERValueError`` unless whole numbers of that shape.

    Raises ``MixERTypeError`` for what is no number, ``bool`` too: True may stand for anything.
    """
    tensor = _copy(name, value)
    if tensor.dtype == torch.bool:
        raise MixERTypeError(
            f"{name} must hold whole numbers, got bool; say which number True stands for, "
            "as in (mask * 1)."
        )
    if tensor.ndim != 1:
        raise MixERValueError(
            f"{name} must have one entry per image, got shape {tuple(tensor.shape)}."
        )
    if tensor.dtype.is_floating_point:
        # Written so that NaN is caught too; from 2 / eps on, several numbers have become one.
        exact = 2 / torch.finfo(tensor.dtype).eps
        wrong = ~((tensor == tensor.round()) & (tensor.abs() < exact))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise MixERValueError(
                f"{name} must hold whole numbers of int64, got {float(tensor[row])} in row {row} "
                f"of {tensor.dtype}, which is exact below {exact:.0f}."
            )
    return tensor.to(torch.int64)


def modality_vector(value: Any) -> Tensor:
    """``label_vector`` of modalities; ``MixERValueError`` unless each is 0 or 1."""
    tensor = label_vector("modality", value)
    wrong = ((tensor != 0) & (tensor != 1)).nonzero().flatten()
    if len(wrong):
        raise MixERValueError(
            f"modality must be 0 (visible) or 1 (infrared), got {int(tensor[wrong[0]])} "
            f"in row {int(wrong[0])}; map your labels to mixer_plugin.Modality."
        )
    return tensor


def path_tuple(value: Any) -> tuple[str, ...]:
    """Paths as strings; ``MixERTypeError`` unless each is a string or an ``os.PathLike``."""
    if isinstance(value, (str, bytes, os.PathLike)):
        raise MixERTypeError(f"paths must be one string per image, got {value!r}.")
    paths = tuple(os.fspath(path) if isinstance(path, os.PathLike) else path for path in value)
    for row, path in enumerate(paths):
        if not isinstance(path, str):
            raise MixERTypeError(
                f"paths must be one string per image, got {path!r} ({type(path).__name__}) in row "
                f"{row}."
            )
    return tuple(map(str, paths))


def check_distinct(paths: Sequence[str] | None, *, links: bool = False) -> None:
    """Raises ``MixERValueError`` where an image is there twice: by its path, or through links."""
    for first, row in find_repeated(paths or (), links=links)[:1]:
        assert paths is not None
        other = "" if paths[first] == paths[row] else f" (as {paths[row]!r})"
        raise MixERValueError(
            f"paths names {paths[first]!r} twice{other}, in rows {first} and {row}; an image "
            "counts once in a gallery (samplers that pad the last batch repeat images: drop those)."
        )


def on_cpu(value: Tensor) -> bool:
    """Whether NumPy can use a tensor's memory; on a GPU slow operations take another way."""
    return value.device.type == "cpu"


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uninitialised memory of a tensor's dtype (float32 or float64) and device.

    On the CPU it is NumPy's, which asks the system for huge pages where arrays are large: the
    first write to such memory takes a third of the time of PyTorch's.
    """
    if not on_cpu(like):
        return like.new_empty(tuple(shape))
    kind = np.float64 if like.dtype == torch.float64 else np.float32
    return torch.from_numpy(np.empty(tuple(shape), kind))


@contextmanager
def named(source: Path | str) -> Iterator[None]:
    """Puts the file name in front of errors about its content."""
    try:
        yield
    except MixERTypeError as error:
        raise MixERTypeError(f"{source}: {error}") from error
    except MixERValueError as error:
        raise MixERValueError(f"{source}: {error}") from error


def _copy(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise MixERTypeError(
                f"{name} must be a dense tensor with data, got {value.layout} {value.dtype} on "
                f"{value.device}."
            )
        if value.dtype in (torch.uint16, torch.uint32, torch.uint64):
            value = value.detach().cpu().numpy()
    if isinstance(value, Tensor):
        tensor = value.detach().clone()
    else:
        try:
            array = np.array(value)
        except (ValueError, TypeError, RuntimeError) as error:  # ragged, or NumPy cannot read it
            raise MixERTypeError(
                f"{name} must be a tensor, an array or a list of real numbers ({error})."
            ) from error
        wide = [v for v in array.flat if isinstance(v, int)] if array.dtype == object else []
        if any(abs(v) >= 2**63 for v in wide):
            raise MixERValueError(f"{name} must fit in int64, got {max(wide, key=abs)}.")
        if np.ma.is_masked(value):
            raise MixERValueError(f"{name} lacks masked entries; give a number for each image.")
        if array.dtype.kind == "u":  # torch lacks most operations on wide unsigned integers
            if array.size and array.max() > np.iinfo(np.int64).max:
                raise MixERValueError(f"{name} must fit in int64, got {array.max()}.")
            array = array.astype(np.int64)
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # torch has no long double
            array = array.astype(np.float64)
        if array.dtype.kind not in "bif":
            raise MixERTypeError(
                f"{name} must be a tensor, an array or a list of real numbers, got "
                f"{type(value).__name__} of {array.dtype}."
            )
        tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    if tensor.is_complex():
        raise MixERTypeError(f"{name} must hold real numbers, got {tensor.dtype}.")
    return tensor
