"""Reads a variable of MATLAB files; what is wrong with a file never ends the process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from mixer_plugin.errors import MissingExtraError, MixERValueError

_SECONDS, _BYTES_PER_SECOND = 120.0, 2**20


def read_mat(paths: Sequence[Path], variable: str) -> Iterator[Any]:
    """The variable of each file in turn, read by one process of its own.

    Files of MATLAB 5 (``save -v7`` and older) are read by SciPy, those of 7.3 (HDF5) by h5py. A
    sparse matrix becomes a full one.

    Args:
        paths: The files.
        variable: Its name.

    Yields:
        A matrix as an array of numbers or characters, a cell array as one of objects.

    Raises:
        MissingExtraError: SciPy or h5py is not installed.
        MixERValueError: Names a file that is no MATLAB file, is damaged, lacks the variable, or
            holds a struct in it.
        OSError: A file cannot be opened.
    """
    versions = [_version(path) for path in paths]
    command = [sys.executable, "-m", "mixer_plugin.io.mat_child", variable, *map(str, paths)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    seconds = _SECONDS + sum(path.stat().st_size for path in paths) / _BYTES_PER_SECOND
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as child:
        watch = threading.Timer(seconds, child.kill)
        watch.start()
        try:
            assert child.stdout is not None
            for path, version in zip(paths, versions, strict=True):
                with _explained(path, version, child):
                    value = _receive(child.stdout)
                yield value
        finally:
            watch.cancel()
            child.kill()


def _version(path: Path) -> str:
    """``5`` or ``7.3``, by the first bytes."""
    with path.open("rb") as file:
        hdf5 = file.read(8).startswith((b"MATLAB 7", b"\x89HDF"))
    package = "h5py" if hdf5 else "scipy"
    try:
        if hdf5:
            import h5py  # noqa: F401
        else:
            import scipy  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(package, "bench", f"Reading {path.name}") from error
    return "7.3" if hdf5 else "5"


@contextmanager
def _explained(path: Path, version: str, child: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    except (ValueError, EOFError) as error:
        reason = f"{error}" or f"the process that read it ended: {child.wait()}"
        if not reason.startswith("it has no variable"):
            reason = (
                f"not a readable MATLAB file (as MATLAB {version}: {reason}); copy it again, or "
                "save it anew with -v7"
            )
        raise MixERValueError(f"{path}: {reason}.") from error


def _receive(stream: IO[bytes]) -> Any:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer = json.loads(line)
    if "error" in answer:
        raise ValueError(" ".join(answer["error"].split()))
    return _build(answer["value"], stream)


def _build(form: dict[str, Any], stream: IO[bytes]) -> Any:
    if "cells" in form:
        cells = np.empty(len(form["cells"]), dtype=object)
        for place, cell in enumerate(form["cells"]):
            cells[place] = _build(cell, stream)
        return cells.reshape(form["shape"])
    kind = np.dtype(form["dtype"])
    length = kind.itemsize * math.prod(form["shape"])
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return np.frombuffer(content, kind).reshape(form["shape"])
