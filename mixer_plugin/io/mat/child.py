"""Reads a variable of a MATLAB 5 file with SciPy, which a damaged file can end with its process.

``python -m mixer_plugin.io.mat.child FILE VARIABLE`` writes the value to stdout, see :func:`pack`,
or what is wrong as a line of JSON; :func:`mixer_plugin.io.mat.file.read_mat` runs it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MEMORY, _PER_BYTE = 2**30, 8  # a compressed file becomes larger, a damaged one asks for more


def main(path: str, variable: str) -> None:
    """Reads and answers."""
    try:
        import scipy.io  # noqa: F401 (its own memory does not count)

        _limit(_MEMORY + _PER_BYTE * os.path.getsize(path))
        answer = pack(_read(path, variable))
    except Exception as error:  # what SciPy raises on a damaged file has no common class
        answer = json.dumps(str(error) or type(error).__name__).encode() + b"\n"
    sys.stdout.buffer.write(answer)


def pack(value: NDArray[Any]) -> bytes:
    """An array of numbers, characters or such arrays: a line of JSON (its tree), an ``.npz``."""
    leaves: list[NDArray[Any]] = []

    def place(each: NDArray[Any]) -> int | dict[str, Any]:
        if each.dtype == object:
            return {"shape": each.shape, "cells": [place(cell) for cell in each.flat]}
        leaves.append(each)
        return len(leaves) - 1

    tree, arrays = place(value), BytesIO()
    np.savez(arrays, *leaves)
    return json.dumps({"tree": tree}).encode() + b"\n" + arrays.getvalue()


def unpack(answer: bytes) -> NDArray[Any] | str:
    """What :func:`pack` packed, or the text of what is wrong."""
    line, _, arrays = answer.partition(b"\n")
    found = json.loads(line)
    if isinstance(found, str):
        return found
    with np.load(BytesIO(arrays), allow_pickle=False) as leaves:
        return _build(found["tree"], leaves)


def _build(tree: int | dict[str, Any], leaves: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if isinstance(tree, int):
        return leaves[f"arr_{tree}"]
    cells = np.empty(len(tree["cells"]), dtype=object)
    for at, each in enumerate(tree["cells"]):  # one by one: NumPy would join equal shapes
        cells[at] = _build(each, leaves)
    return cells.reshape(tree["shape"])


def _limit(memory: int) -> None:
    """Bounds the bytes that this process takes from here on."""
    with suppress(ImportError, ValueError, OSError):  # not every system has such limits
        import resource

        with open("/proc/self/statm") as held:
            memory += int(held.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read(path: str, variable: str) -> Any:
    from scipy.io import loadmat, whosmat

    found = loadmat(path, variable_names=[variable])
    if variable in found:
        return _full(found[variable])
    names = [name for name, *_ in whosmat(path)]
    raise ValueError(f"it has no variable {variable!r}, only {', '.join(names) or 'none'}")


def _full(value: Any) -> Any:
    """Numbers, characters and cells; sparse matrices become full ones."""
    array = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
    if array.dtype.kind not in "biufcUO":
        raise ValueError(f"it holds a struct or an object ({array.dtype}), no numbers or cells")
    if array.dtype == object:
        cells = np.empty(array.shape, dtype=object)
        for at in np.ndindex(array.shape):
            cells[at] = _full(array[at])
        return cells
    return array


if __name__ == "__main__":
    main(*sys.argv[1:])
