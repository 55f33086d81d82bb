"""Turns what callers give as features and labels into checked tensors of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError


def feature_matrix(name: str, value: Any) -> Tensor:
    """A copy as float32 [images, width]; ``MixERValueError`` unless finite and of that shape."""
    tensor = _copy(name, value)
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise MixERValueError(
            f"{name} must be [images, width], got shape {tuple(tensor.shape)}; "
            "pool feature maps and join batches first."
        )
    tensor = tensor.to(torch.float32)
    finite = tensor.isfinite().all(dim=1)
    if not finite.all():
        rows = (~finite).nonzero().flatten().tolist()
        raise MixERValueError(
            f"{name} holds values that are not finite (as float32) in {len(rows)} of {len(tensor)} "
            f"rows, first in row {rows[0]}; check the model that made them."
        )
    return tensor


def label_vector(name: str, value: Any) -> Tensor:
    """A copy as int64 [images]; ``MixERValueError`` unless whole numbers of that shape."""
    tensor = _copy(name, value)
    if tensor.ndim != 1:
        raise MixERValueError(
            f"{name} must have one entry per image, got shape {tuple(tensor.shape)}."
        )
    if tensor.dtype.is_floating_point:
        # Written so that NaN is caught too; beyond 2^63 there is no int64.
        wrong = ~((tensor == tensor.round()) & (tensor.abs() < 2.0**63))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise MixERValueError(
                f"{name} must hold whole numbers of int64, got {float(tensor[row])} in row {row}."
            )
    return tensor.to(torch.int64)


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
        tensor = value.detach().clone()
    else:
        array = np.array(value)
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
