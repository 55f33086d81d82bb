"""SYSU-MM01's gallery draws, ``rand_perm_cam.mat``: read and checked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERError, MixERValueError
from mixer_plugin.io.mat.file import read_mat
from mixer_plugin.io.whole_number import whole_numbers

_VARIABLE = "rand_perm_cam"
_CAMERAS = 6
_ADVICE = "Copy it from the release (evaluation/data_split/rand_perm_cam.mat of SYSU-MM01)."

Draws = dict[int, dict[int, NDArray[np.int64]]]


def read_permutation_file(path: Path) -> Draws:
    """Reads the draws from a file; see :func:`check_permutation`.

    Raises:
        MissingExtraError: SciPy or h5py is not installed.
        MixERValueError: The file is missing, damaged, or holds other things.
    """
    if not path.is_file():
        raise MixERValueError(f"{path} is not a file; give the path of rand_perm_cam.mat.")
    return check_permutation(read_mat(path, _VARIABLE), str(path))


def check_permutation(cells: Any, name: str) -> Draws:
    """The draws of each camera and identity; identities without an image are left out.

    Args:
        cells: Six cells, one per camera, each a cell of [trials, images] matrices by identity, or
            the same as camera -> identity -> matrix.
        name: What to call them in a message.

    Returns:
        camera -> identity -> int64 [trials, images], 1-based image numbers.

    Raises:
        MixERValueError: They are not of this form, or the trials of an identity are not
            permutations of one set of image numbers; all such are named.
    """
    if not isinstance(cells, Mapping):
        cameras = np.asarray(cells, dtype=object).reshape(-1)
        if len(cameras) != _CAMERAS or np.asarray(cells).dtype != object:
            raise MixERValueError(
                f"{name}: {_VARIABLE} must have {_CAMERAS} cells, one per camera; it has "
                f"{len(cameras)} of {np.asarray(cells).dtype}. Give the six cells of SYSU-MM01's "
                "evaluation/data_split/rand_perm_cam.mat."
            )
        cells = {
            cam: dict(enumerate(np.asarray(cell, dtype=object).reshape(-1), start=1))
            for cam, cell in enumerate(cameras, start=1)
        }
    draws: Draws = {}
    faults: list[str] = []
    for cam, cell in cells.items():
        draws[int(cam)] = {}
        broken: list[str] = []
        for identity, matrix in cell.items():
            if np.size(matrix):
                trials = _permutations(matrix)
                if trials is None:
                    broken.append(str(identity))
                else:
                    draws[int(cam)][int(identity)] = trials
        if broken:
            more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
            faults.append(
                f"camera {cam}: the trials of identity {', '.join(broken[:5])}{more} are not "
                "permutations of one set of image numbers"
            )
    if faults:
        raise MixERValueError(f"{name}: {_VARIABLE}, {'; '.join(faults)}. {_ADVICE}")
    return draws


def _permutations(matrix: Any) -> NDArray[np.int64] | None:
    try:
        trials = np.atleast_2d(whole_numbers(matrix, _VARIABLE))
    except MixERError:
        return None
    rows = np.sort(trials, axis=1)
    first = rows[0]
    whole = trials.ndim == 2 and first[0] > 0 and bool((first[1:] > first[:-1]).all())
    return trials if whole and bool((rows == first).all()) else None
