"""Reads a variable of a MATLAB file; whatever is wrong with a file, the error names it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MissingExtraError, MixERValueError
from mixer_plugin.io.mat.child import unpack
from mixer_plugin.io.mat.plain import read_plain

_SECONDS, _BYTES_PER_SECOND = 120.0, 2**20
_RATIO = 1032  # the most that HDF5's compression makes of a byte


def read_mat(path: Path, variable: str) -> NDArray[Any]:
    """The variable of a MATLAB file.

    Of MATLAB 5 (``save -v7`` and older), what is sound and plain is read here, anything else by
    SciPy in a process of its own, which a damaged file may end. h5py reads 7.3 (HDF5). A sparse
    matrix becomes a full one.

    Args:
        path: The file.
        variable: Its name.

    Returns:
        A matrix as an array of numbers or characters, a cell array as one of objects.

    Raises:
        MissingExtraError: SciPy or h5py is not installed.
        MixERValueError: It cannot be opened, is no MATLAB file, is damaged, lacks the variable, or
            holds a struct in it.
    """
    hdf5 = False
    try:
        with path.open("rb") as file:
            hdf5 = file.read(8).startswith((b"MATLAB 7", b"\x89HDF"))
        return _read_7_3(path, variable) if hdf5 else _read_5(path, variable)
    except ImportError as error:
        package, extra = ("h5py", "bench") if hdf5 else ("scipy", "demo")
        raise MissingExtraError(package, extra, f"Reading {path.name}") from error
    except MixERValueError as error:
        raise MixERValueError(f"{path}: {error}.") from error
    except Exception as error:  # what h5py raises on a damaged file has no common class
        raise MixERValueError(
            f"{path}: not a readable MATLAB file (as MATLAB {'7.3' if hdf5 else '5'}: "
            f"{' '.join(str(error).split())}). Copy it again, or save it anew with -v7."
        ) from error


def _read_5(path: Path, variable: str) -> Any:
    import scipy  # noqa: F401 (so that every file needs SciPy, not some)

    plain = read_plain(path.read_bytes(), variable)
    if plain is not None:
        return plain
    child = subprocess.run(
        [sys.executable, "-m", "mixer_plugin.io.mat.child", path, variable],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        timeout=_SECONDS + path.stat().st_size / _BYTES_PER_SECOND,
        check=False,
    )
    if child.returncode:
        raise ValueError(f"the process that read it ended with status {child.returncode}")
    answer = unpack(child.stdout)
    if isinstance(answer, str):
        raise (MixERValueError if answer.startswith("it has no variable") else ValueError)(answer)
    return answer


def _read_7_3(path: Path, variable: str) -> Any:
    import h5py

    with h5py.File(path, "r") as content:
        if variable not in content:
            names = [name for name in content if not name.startswith("#")]
            found = ", ".join(names) or "none"
            raise MixERValueError(f"it has no variable {variable!r}, only {found}")
        return _value(content, content[variable], _RATIO * path.stat().st_size)


def _value(content: Any, item: Any, most: int) -> Any:
    """HDF5: a cell array is a data set of references, every matrix is stored transposed."""
    import h5py

    if "MATLAB_sparse" in item.attrs:
        return _sparse(item, most)
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"{item.name} is a struct, no matrix or cell")
    # An empty matrix is stored as its two dimensions, with this mark, or as nothing.
    if item.shape is None or item.attrs.get("MATLAB_empty", 0):
        return np.empty((0, 0))
    if item.nbytes > most:
        raise ValueError(f"{item.name} of {item.nbytes} bytes is more than the file can hold")
    value = np.asarray(item[()]).T
    if h5py.check_ref_dtype(item.dtype) is h5py.Reference:
        cells = np.empty(value.shape, dtype=object)
        for at in np.ndindex(value.shape):
            cells[at] = _value(content, content[value[at]], most)
        return cells
    return value


def _sparse(item: Any, most: int) -> NDArray[Any]:
    if "jc" not in item:
        raise ValueError(f"{item.name} is a sparse matrix without columns")
    starts = item["jc"][()].astype(np.int64)
    shape = int(item.attrs["MATLAB_sparse"]), len(starts) - 1
    values = item["data"][()] if "data" in item else np.empty(0)
    if math.prod(shape) * values.itemsize > most:
        raise ValueError(f"{item.name} is a sparse matrix of {shape}, too large to be full")
    dense = np.zeros(shape, dtype=values.dtype)
    if len(values):
        columns = np.repeat(np.arange(shape[1]), np.diff(starts))
        dense[item["ir"][()].astype(np.int64), columns] = values
    return dense
