"""Reads arrays of ``.npy`` and ``.npz`` files: no objects, and no more than the file holds."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, Literal
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mixer_plugin.errors import MixERTypeError, MixERValueError


def map_array(
    path: Path,
    what: str,
    advice: str = "write a plain array with numpy.save",
    *,
    mode: Literal["r", "c"] = "r",
) -> Any:
    """The array of an ``.npy``, mapped into memory: it is read from disk as it is used.

    Args:
        path: The file.
        what: What it should hold, for messages.
        advice: What to do if it does not.
        mode: ``r``: the array is read-only; ``c``: changes stay in memory.

    Raises:
        MixERValueError: It is cut off, damaged, or holds Python objects.
        FileNotFoundError: It is not there.
    """
    try:
        with path.open("rb") as file:
            _check_header(file, path.stat().st_size)
        return np.load(path, mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever NumPy makes of other bytes
        raise MixERValueError(f"{path}: {what} cannot be read ({error}); {advice}.") from error


def read_arrays(
    path: Path, names: Collection[str] | None = None, advice: str = "write it anew"
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Arrays of an ``.npz``.

    Args:
        path: The file.
        names: Those to read, as far as they are there; None: all.
        advice: What to do if it is no such file.

    Returns:
        The arrays by name, and the names of all that the file holds.

    Raises:
        MixERValueError: It is cut off, damaged, or what was asked for holds Python objects.
        MixERTypeError: What was asked for is no array.
    """
    arrays: dict[str, NDArray[Any]] = {}
    name = "its directory"
    try:
        with ZipFile(path) as archive:
            sizes = {each.filename: each.file_size for each in archive.infolist()}
            held = {each.removesuffix(".npy"): each for each in sizes}
            for name in (name for name in (held if names is None else names) if name in held):
                size = sizes[held[name]]
                with archive.open(held[name]) as member:
                    if member.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
                        raise MixERTypeError(f"{path}: {name} is no array but {size} bytes.")
                    member.seek(0)
                    _check_size(member, size)
                with archive.open(held[name]) as member:
                    arrays[name] = npy.read_array(member, allow_pickle=False)
    except MixERTypeError:
        raise
    except Exception as error:  # whatever NumPy and zipfile make of other bytes
        raise MixERValueError(
            f"{path}: {name} cannot be read, it is not an .npz of plain arrays ({error}); {advice}."
        ) from error
    return arrays, sorted(held)


def zip_names(path: Path) -> list[str]:
    """The names of a zip file's members; none where it is no such file or damaged."""
    try:
        with ZipFile(path) as archive:
            return archive.namelist()
    except FileNotFoundError:
        raise
    except Exception:  # as above
        return []


def _check_header(file: IO[bytes], size: int) -> None:
    """``ValueError`` where an array's header is longer than its file: NumPy would make room."""
    if file.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        return
    major = file.read(2)[:1]
    length = int.from_bytes(file.read(2 if major == b"\1" else 4), "little")
    if length > size:
        raise ValueError(f"{size} bytes cannot hold a header of {length}")


def _check_size(member: IO[bytes], size: int) -> None:
    """``ValueError`` where an array's header promises more than its file holds."""
    _check_header(member, size)
    member.seek(0)
    first = npy.read_magic(member) == (1, 0)
    read = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
    shape, _, kind = read(member)
    if not kind.hasobject and math.prod(shape) * kind.itemsize > size:
        raise ValueError(f"{size} bytes cannot hold an array {list(shape)} of {kind}")
