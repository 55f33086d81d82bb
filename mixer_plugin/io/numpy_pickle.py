"""Stand-ins for what NumPy pickles numbers and arrays by, which check all that a file says.

NumPy's own trust a file: ``numpy.dtype`` with another state crashes the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

_CODES = {np.dtype(c).str[1:] for c in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"}


class _Kind:
    """``numpy.dtype`` of numbers."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if code not in _CODES:
            raise ValueError(f"no numbers: {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *others = state
        if others != [None, None, None, -1, -1, 0] or order not in ("<", ">", "|", "="):
            raise ValueError(f"no numbers: {state!r}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """``numpy.ndarray`` of numbers; is made by :func:`_reconstruct` alone."""

    def __new__(cls, *_: Any, **__: Any) -> _Array:
        raise ValueError("an array of no file")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        sizes = [size for size in shape if type(size) is int and size >= 0]
        if (
            len(sizes) != len(shape)
            or not isinstance(kind, _Kind)
            or not isinstance(data, bytes)
            or math.prod(sizes) * kind.dtype.itemsize != len(data)
        ):
            raise ValueError("an array whose shape does not fit its data")
        whole: Any = (1, tuple(sizes), kind.dtype, bool(fortran), data)
        super().__setstate__(whole)


def _reconstruct(*_: Any) -> _Array:
    """``numpy._core.multiarray._reconstruct``: an empty array, whose state comes next."""
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _scalar(kind: _Kind, data: bytes) -> Any:
    """``numpy._core.multiarray.scalar``."""
    if not isinstance(kind, _Kind) or not isinstance(data, bytes):
        raise ValueError("a number without a kind")
    if len(data) != kind.dtype.itemsize:
        raise ValueError(f"a number of {len(data)} bytes")
    return np.frombuffer(data, kind.dtype)[0]


def numpy_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What NumPy 1 and 2 name in a pickle, and what stands for it."""
    cores = ("numpy.core.multiarray", "numpy._core.multiarray")
    return [
        *((_scalar, f"{core}.scalar") for core in cores),
        *((_reconstruct, f"{core}._reconstruct") for core in cores),
        (_Array, "numpy.ndarray"),
        (_Kind, "numpy.dtype"),
    ]
