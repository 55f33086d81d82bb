"""Finds the MATLAB 5 variables that SciPy can read without risk: every size in them agrees.

The format: mathworks.com/help/pdf_doc/matlab/matfile_format.pdf, sections 1-4 to 1-21.
"""

from __future__ import annotations

import math
import struct
import zlib

_HEADER, _LITTLE = 128, b"\0\1IM"
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}  # bytes by kind of number
_CELL, _NUMBERS = 1, range(6, 16)  # classes of arrays
_MOST = 2**31  # what the format itself allows for one variable
_TAG = struct.Struct("<II")


def sound_variable(content: bytes, variable: str) -> bytes | None:
    """A file of the one variable, where that is sound and made of cells and real full matrices.

    Args:
        content: The file.
        variable: The name.

    Returns:
        The bytes of an uncompressed file; None where it is damaged, of another form, or not there.
    """
    if content[_HEADER - 4 : _HEADER] != _LITTLE:
        return None
    at = _HEADER
    try:
        while at < len(content):
            kind, size = _TAG.unpack_from(content, at)
            element = content[at : at + _TAG.size + size]
            at += _TAG.size + size
            if kind == _COMPRESSED:
                stream = zlib.decompressobj()
                element = stream.decompress(element[_TAG.size :], _MOST)
                _require(stream.eof)
            if _name(element) == variable.encode():
                _require(_check_matrix(element, 0) == len(element))
                return content[:_HEADER] + element
    except (ValueError, struct.error, zlib.error, RecursionError, MemoryError):
        pass
    return None


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _part(data: bytes, at: int) -> tuple[int, int, int, int]:
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


def _name(element: bytes) -> bytes:
    at = _TAG.size
    for _ in ("flags", "dimensions"):
        *_, at = _part(element, at)
    _, start, size, _ = _part(element, at)
    return element[start : start + size]


def _check_matrix(data: bytes, at: int) -> int:
    """Where the matrix ends that begins at a place; ``ValueError`` if not every size fits."""
    kind, size = _TAG.unpack_from(data, at)
    end = at + _TAG.size + size
    _require(kind == _MATRIX and end <= len(data))
    if not size:  # an empty cell
        return end
    kind, start, size, at = _part(data, at + _TAG.size)
    _require((kind, size) == (_UINT32, 8))
    form = int.from_bytes(data[start : start + 4], "little")  # the class; larger with any flag
    kind, start, size, at = _part(data, at)
    _require(kind == _INT32 and size >= 8 and size % 4 == 0)
    shape = struct.unpack_from(f"<{size // 4}i", data, start)
    kind, *_, at = _part(data, at)
    _require(kind == _INT8 and min(shape) >= 0)
    if form == _CELL:
        for _ in range(math.prod(shape)):
            at = _check_matrix(data, at)
    else:
        kind, start, size, at = _part(data, at)
        _require(form in _NUMBERS and size == math.prod(shape) * _SIZES.get(kind, -1))
    _require(at == end)
    return end
