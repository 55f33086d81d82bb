"""Reads the MATLAB 5 variables that are sound and plain, as SciPy does.

SciPy trusts a file's sizes, and a damaged file can end the process that way. Here each is checked.
The format: mathworks.com/help/pdf_doc/matlab/matfile_format.pdf, chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER, _LITTLE = 128, b"\0\1IM"
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_KINDS[13] = "u8"
_CELL, _NUMBERS = 1, range(6, 16)  # classes of arrays
_MOST = 2**31  # what the format itself allows for one variable
_TAG = struct.Struct("<II")


def read_plain(content: bytes, variable: str) -> NDArray[Any] | None:
    """A variable made of cells and real full matrices; read-only.

    Args:
        content: The file.
        variable: The name.

    Returns:
        The value; None where it is damaged, of another form, or not there.
    """
    if content[_HEADER - 4 : _HEADER] != _LITTLE:
        return None
    at, view = _HEADER, memoryview(content)
    try:
        while at < len(content):
            kind, size = _TAG.unpack_from(content, at)
            element = view[at : at + _TAG.size + size]
            at += _TAG.size + size
            if kind == _COMPRESSED:
                stream = zlib.decompressobj()
                element = memoryview(stream.decompress(element[_TAG.size :], _MOST))
                _require(stream.eof)
            if _name(element) == variable.encode():
                value, end = _matrix(element, 0)
                _require(end == len(element))
                return value
    except (ValueError, struct.error, zlib.error, RecursionError, MemoryError):
        pass
    return None


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _part(data: memoryview, at: int) -> tuple[int, int, int, int]:
    """An element of a matrix: its kind, start and size, and where the next begins."""
    kind, size = _TAG.unpack_from(data, at)
    if kind >> 16:  # up to four bytes, within the tag
        kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        _require(size <= 4)
    else:
        start = at + _TAG.size
        after = start + size + -size % 8
    _require(start + size <= len(data))
    return kind, start, size, after


def _name(element: memoryview) -> bytes:
    at = _TAG.size
    for _ in ("flags", "dimensions"):
        *_, at = _part(element, at)
    _, start, size, _ = _part(element, at)
    return bytes(element[start : start + size])


def _matrix(data: memoryview, at: int) -> tuple[NDArray[Any], int]:
    """The matrix that begins at a place, and its end; ``ValueError`` if not every size fits."""
    kind, size = _TAG.unpack_from(data, at)
    end = at + _TAG.size + size
    _require(kind == _MATRIX and end <= len(data))
    if not size:  # an empty cell
        return np.empty((1, 0)), end
    kind, start, size, at = _part(data, at + _TAG.size)
    _require((kind, size) == (_UINT32, 8))
    form = int.from_bytes(data[start : start + 4], "little")  # the class; larger with any flag
    kind, start, size, at = _part(data, at)
    _require(kind == _INT32 and size >= 8 and size % 4 == 0)
    shape = struct.unpack_from(f"<{size // 4}i", data, start)
    kind, *_, at = _part(data, at)
    _require(kind == _INT8 and min(shape) >= 0)
    if form == _CELL:
        cells = []
        for _ in range(math.prod(shape)):
            cell, at = _matrix(data, at)
            cells.append(cell)
        value = np.empty(len(cells), dtype=object)
        for place, cell in enumerate(cells):
            value[place] = cell
    else:
        kind, start, size, at = _part(data, at)
        _require(form in _NUMBERS and kind in _KINDS)
        number = np.dtype(_KINDS[kind]).newbyteorder("<")
        _require(size == math.prod(shape) * number.itemsize)
        value = np.frombuffer(data, number, math.prod(shape), start)
    _require(at == end)
    return value.reshape(shape, order="F"), end
