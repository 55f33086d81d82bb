"""Gallery draws: SYSU-MM01's official permutation and the script family's seeded draw."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.permutation_file import check_permutation, read_permutation_file

# camera -> identity -> int64 [trials, images], 1-based image numbers in the order of each trial.
Permutation = Mapping[int, Mapping[int, NDArray[np.int64]]]

_IMAGE = re.compile(r"cam(\d+)[/\\](\d+)[/\\](\d+)\.\w+$")


def read_permutation(source: str | os.PathLike[str] | NDArray[Any] | Permutation) -> Permutation:
    """Reads the official draws (github.com/wuancong/SYSU-MM01, ``rand_perm_cam.mat``).

    Args:
        source: The file, its variable ``rand_perm_cam`` (six cells, one per camera, each a cell of
            [trials, images] matrices by identity), or the same as camera -> identity -> matrix.

    Returns:
        camera -> identity -> int64 [trials, images]; identities without an image are left out.

    Raises:
        MissingExtraError: A file is given and SciPy (7.3: h5py) is not installed.
        MixERValueError: The file or the array is not of this form, or the trials of an identity
            are not permutations of one set of image numbers.
    """
    if isinstance(source, (Mapping, np.ndarray)):
        return check_permutation(source, "permutation")
    return read_permutation_file(Path(source))


def official_draw(
    features: FeatureSet, permutation: Permutation, cameras: Sequence[int], shots: int, trials: int
) -> list[NDArray[np.int64]]:
    """The gallery rows of each trial under the official permutation.

    Args:
        features: Images with paths ending ``cam1/0006/0001.jpg`` (any extension).
        permutation: The official draws.
        cameras: Gallery cameras.
        shots: Images per identity and camera; all of them where there are fewer.
        trials: Number of trials.

    Returns:
        Per trial int64 [gallery], sorted rows of ``features``.

    Raises:
        MixERValueError: Paths, trials or drawn images are missing, or the two do not fit.
    """
    by_image = _rows_by_image(features)
    rows: list[list[int]] = [[] for _ in range(trials)]
    missing: list[str] = []
    for cam, identity in sorted({(cam, identity) for cam, identity, _ in by_image}):
        if cam not in cameras:
            continue
        matrix = permutation.get(cam, {}).get(identity)
        if matrix is None:
            raise MixERValueError(
                f"The permutation draws nothing for identity {identity} in camera {cam}, of which "
                "there are features; give the permutation of this data set, or leave these out."
            )
        if len(matrix) < trials:
            raise MixERValueError(
                f"The permutation holds {len(matrix)} trials for identity {identity} in camera "
                f"{cam}, but {trials} are asked for; pass trials={len(matrix)}."
            )
        for trial in range(trials):
            for number in matrix[trial, :shots].tolist():
                row = by_image.get((cam, identity, number))
                if row is None:
                    missing.append(f"cam{cam}/{identity:04d}/{number:04d}")
                else:
                    rows[trial].append(row)
    if missing:
        raise MixERValueError(
            f"{len(missing)} drawn images are not among the features, such as {missing[0]}; "
            "extract features of every test image."
        )
    return [np.sort(np.asarray(trial, dtype=np.int64)) for trial in rows]


def _rows_by_image(features: FeatureSet) -> dict[tuple[int, int, int], int]:
    if features.paths is None:
        raise MixERValueError(
            "The official draws name images by file, but the FeatureSet has paths=None; give "
            "paths ending cam1/0006/0001.jpg, or use the draw '@ye' or the protocol 'full'."
        )
    found: dict[tuple[int, int, int], int] = {}
    labels = zip(features.cams.tolist(), features.ids.tolist(), strict=True)
    for row, (path, (cam, identity)) in enumerate(zip(features.paths, labels, strict=True)):
        match = _IMAGE.search(path)
        if match is None:
            raise MixERValueError(
                f"Row {row}: path {path!r} does not end like cam1/0006/0001.jpg, "
                "which the draws of SYSU-MM01 need."
            )
        key = (int(match[1]), int(match[2]), int(match[3]))
        if key[:2] != (cam, identity):
            raise MixERValueError(
                f"Row {row}: path {path!r} says camera {key[0]}, identity {key[1]}, but cams and "
                f"ids say {cam}, {identity}; keep the numbers of the data set."
            )
        if key in found:
            raise MixERValueError(f"Rows {found[key]} and {row} are the same image, {path!r}.")
        found[key] = row
    return found


def ye_draw(
    features: FeatureSet, sides: Sequence[Sequence[int]], trials: int
) -> list[NDArray[np.int64]]:
    """The gallery rows of each trial as AGW, DDAG, DEEN and others draw them, one image each.

    ``random.seed(trial)``, then for each identity in order, for each gallery camera in order, one
    ``random.choice`` among its sorted file names (github.com/mangye16/
    Cross-Modal-Re-ID-baseline, ``process_gallery_sysu``; github.com/ZYK100/LLCM,
    ``process_gallery_llcm``). The generator is private.

    Args:
        features: Images; without paths, the order of the rows stands for that of the names.
        sides: Gallery cameras, visible and infrared. Each side is seeded anew, as the scripts of
            LLCM do; those of SYSU-MM01 draw visible ones only, which this leaves as they are.
        trials: Number of trials.

    Returns:
        Per trial int64 [gallery], sorted rows of ``features``.
    """
    names = features.paths or tuple(f"{row:012d}" for row in range(len(features)))
    images: dict[tuple[int, int, int], list[int]] = {}
    labels = (features.modality, features.cams, features.ids)
    for row, key in enumerate(zip(*(label.tolist() for label in labels), strict=True)):
        images.setdefault(key, []).append(row)
    for rows in images.values():
        rows.sort(key=lambda row: names[row])
    identities = sorted({identity for *_, identity in images})
    draws = []
    for trial in range(trials):
        drawn: list[int] = []
        for modality, cameras in enumerate(sides):
            generator = random.Random(trial)
            drawn.extend(
                generator.choice(images[modality, cam, identity])
                for identity in identities
                for cam in cameras
                if (modality, cam, identity) in images
            )
        draws.append(np.sort(np.asarray(drawn, dtype=np.int64)))
    return draws
