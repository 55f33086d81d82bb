"""The process that reads MATLAB files for :func:`mixer_plugin.io.mat_file.read_mat`.

``python -m mixer_plugin.io.mat_child VARIABLE FILE…`` answers each file with a line of JSON and the
bytes of its arrays, in order. SciPy and HDF5 can end the process that reads a damaged file.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MEMORY, _PER_BYTE = 2**32, 8  # a compressed file becomes larger, a damaged one asks for more


def main(variable: str, paths: list[str]) -> None:
    """Writes the answers to stdout."""
    for path in paths:
        arrays: list[NDArray[Any]] = []
        answer: dict[str, Any]
        try:
            _limit(_MEMORY + _PER_BYTE * os.path.getsize(path))
            answer = {"value": _describe(_read(path, variable), arrays)}
        except Exception as error:  # what the two raise on a damaged file has no common class
            arrays, answer = [], {"error": f"{error}" or type(error).__name__}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        for array in arrays:
            sys.stdout.buffer.write(array.tobytes())
        sys.stdout.buffer.flush()


def _limit(memory: int) -> None:
    with suppress(ImportError, ValueError, OSError):  # not every system has such limits
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read(path: str, variable: str) -> Any:
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith((b"MATLAB 7", b"\x89HDF")):
        import h5py

        with h5py.File(path, "r") as content:
            if variable in content:
                return _value_of_7_3(content, content[variable])
            names: Iterable[str] = [name for name in content if not name.startswith("#")]
    else:
        from scipy.io import loadmat, whosmat

        found = loadmat(path, variable_names=[variable])
        if variable in found:
            return found[variable]
        names = [name for name, *_ in whosmat(path)]
    raise ValueError(f"it has no variable {variable!r}, only {', '.join(names) or 'none'}")


def _value_of_7_3(content: Any, item: Any) -> Any:
    """HDF5: a cell array is a data set of references, every matrix is stored transposed."""
    import h5py

    if "MATLAB_sparse" in item.attrs:
        return _sparse_of_7_3(item)
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"{item.name} is a struct; expected a matrix or a cell")
    # An empty matrix is stored as its two dimensions, with this mark, or as nothing.
    if item.shape is None or item.attrs.get("MATLAB_empty", 0):
        return np.empty((0, 0))
    value = np.asarray(item[()]).T
    if h5py.check_ref_dtype(item.dtype) is h5py.Reference:
        cells = np.empty(value.shape, dtype=object)
        for at in np.ndindex(value.shape):
            cells[at] = _value_of_7_3(content, content[value[at]])
        return cells
    if value.dtype.names == ("real", "imag"):
        return value["real"] + 1j * value["imag"]
    return value


def _sparse_of_7_3(item: Any) -> NDArray[Any]:
    if "jc" not in item:
        raise ValueError(f"{item.name} is a sparse matrix without columns")
    starts = item["jc"][()].astype(np.int64)
    shape = int(item.attrs["MATLAB_sparse"]), len(starts) - 1
    if "data" not in item:  # nothing but zeros
        return np.zeros(shape)
    dense = np.zeros(shape, dtype=item["data"].dtype)
    columns = np.repeat(np.arange(shape[1]), np.diff(starts))
    dense[item["ir"][()].astype(np.int64), columns] = item["data"][()]
    return dense


def _describe(value: Any, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    """The form of a value as JSON; its arrays are appended in order."""
    array = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
    if array.dtype == object:
        cells = [_describe(cell, arrays) for cell in array.reshape(-1)]
        return {"shape": array.shape, "cells": cells}
    if array.dtype.kind not in "biufcU":
        raise ValueError(f"it holds a value of kind {array.dtype}; expected numbers and cells")
    arrays.append(array)
    return {"shape": array.shape, "dtype": array.dtype.str}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
