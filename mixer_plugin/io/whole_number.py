"""Whole numbers of files: identities, cameras and image numbers as int64, none of them altered."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERTypeError, MixERValueError

_LIMITS = np.iinfo(np.int64)


def whole_number(text: str, where: str) -> int:
    """A written number; ``MixERValueError`` unless it is whole, of up to 18 digits.

    Args:
        text: The number.
        where: File and place, to begin a message with.
    """
    if not re.fullmatch(r"-?[0-9]{1,18}", text):  # always within int64
        raise MixERValueError(f"{where}: {text[:40]!r} is not a whole number of up to 18 digits.")
    return int(text)


def whole_numbers(values: Any, where: str) -> NDArray[np.int64]:
    """Numbers as int64, in the same shape.

    Args:
        values: Numbers or an array of them, of any kind.
        where: What they are, to begin a message with.

    Raises:
        MixERTypeError: They are no real numbers.
        MixERValueError: One has a fraction, is not finite or lies outside int64.
    """
    array = np.asarray(values)
    kind = array.dtype.kind
    if kind == "O" and all(isinstance(value, int) for value in array.reshape(-1)):
        # Python's numbers beyond 64 bits come so.
        wrong = [n for n in array.reshape(-1) if not _LIMITS.min <= n <= _LIMITS.max]
    elif kind == "f":  # written so that NaN is caught too
        wrong = array[~((array == np.rint(array)) & (np.abs(array) < 2.0**63))].tolist()
    elif kind in "biu":
        wrong = array[array > _LIMITS.max].tolist() if array.dtype == np.uint64 else []
    elif array.size:
        raise MixERTypeError(f"{where}: expected whole numbers, got {array.dtype} values.")
    else:
        wrong = []
    if wrong:
        raise MixERValueError(f"{where}: {wrong[0]!r} is not a whole number of 64 bits.")
    return array.astype(np.int64)
