"""Reads a variable of a MATLAB 5 file with SciPy, which a damaged file can end with its process.

``python -m mixer_plugin.io.mat_child FILE VARIABLE`` writes the pickled value to stdout, or what
is wrong as a text; :func:`mixer_plugin.io.mat_file.read_mat` runs it.
"""

from __future__ import annotations

import os
import pickle
import sys
from contextlib import suppress
from typing import Any

import numpy as np

_MEMORY, _PER_BYTE = 2**32, 8  # a compressed file becomes larger, a damaged one asks for more


def main(path: str, variable: str) -> None:
    """Reads and answers."""
    try:
        _limit(_MEMORY + _PER_BYTE * os.path.getsize(path))
        answer = _read(path, variable)
    except Exception as error:  # what SciPy raises on a damaged file has no common class
        answer = str(error) or type(error).__name__
    pickle.dump(answer, sys.stdout.buffer, protocol=5)


def _limit(memory: int) -> None:
    with suppress(ImportError, ValueError, OSError):  # not every system has such limits
        import resource

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
