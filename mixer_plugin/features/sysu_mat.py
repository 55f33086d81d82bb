"""Reads features in the form that SYSU-MM01's own MATLAB evaluation takes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.features.validation import feature_matrix, named
from mixer_plugin.io.folder import is_litter
from mixer_plugin.io.mat.file import read_mat
from mixer_plugin.releases import SYSU

_VARIABLE = "feature"


def read_sysu_mat(
    path: Path, *, related: Path | None = None, identities: Iterable[int] | None = None
) -> dict[str, Any]:
    """Reads features in the form that SYSU-MM01's MATLAB evaluation takes.

    One file per camera, ``<name>_cam1.mat`` to ``<name>_cam6.mat`` (those that are there), each
    with a cell ``feature``: ``feature{id}(i,:)`` is the feature of image i of that identity
    (github.com/wuancong/SYSU-MM01, evaluation/README.md). Cameras 3 and 6 are infrared. Rows come
    sorted by camera, identity and image number, with paths ``cam1/0006/0001.jpg``. MATLAB 5 files
    (``save -v7`` and older) and 7.3 files (HDF5) are told apart by their first bytes.

    Args:
        path: The folder, or one of the files where a folder holds several names.
        related: The same for the modality-related features, if there are any.
        identities: Those to keep, e.g. ``test_id.mat``'s; None keeps all that have images.

    Returns:
        The fields of a ``FeatureSet`` by name, of all cameras that were found.

    Raises:
        MissingExtraError: SciPy (MATLAB 5) or h5py (7.3) is not installed.
        MixERValueError: No such files, several names in the folder, a file cannot be read or has no
            cell ``feature`` of finite [images, width] matrices, or the related features are of
            other images.
        MixERTypeError: A matrix is not of real numbers.
    """
    keep = None if identities is None else {int(identity) for identity in identities}
    features, keys = _read_cameras(path, keep)
    second = None
    if related is not None:
        second, other = _read_cameras(related, keep)
        if other != keys:
            raise MixERValueError(
                f"{related} holds {len(other)} features of other images than {path} "
                f"({len(keys)}); both must cover the same images."
            )
    cams = np.asarray([cam for cam, _, _ in keys], dtype=np.int64)
    return {
        "erased": features,
        "related": second,
        "ids": torch.tensor([identity for _, identity, _ in keys], dtype=torch.int64),
        "cams": torch.from_numpy(cams),
        "modality": torch.from_numpy(np.isin(cams, SYSU.infrared).astype(np.int64)),
        "paths": tuple(f"cam{cam}/{who:04d}/{number:04d}.jpg" for cam, who, number in keys),
    }


def _read_cameras(path: Path, keep: set[int] | None) -> tuple[Tensor, list[tuple[int, int, int]]]:
    blocks: list[Tensor] = []
    keys: list[tuple[int, int, int]] = []
    for cam, file in sorted(_camera_files(path).items()):
        cells = read_mat(file, _VARIABLE)
        with named(file):
            if cells.dtype != object:
                raise MixERTypeError(f"{_VARIABLE} must be a cell array, one cell per identity.")
            for identity, cell in enumerate(cells.reshape(-1), start=1):
                if cell.size and (keep is None or identity in keep):
                    block = feature_matrix(f"feature{{{identity}}}", cell)
                    if blocks and block.shape[1] != blocks[0].shape[1]:
                        raise MixERValueError(
                            f"feature{{{identity}}} has shape {tuple(block.shape)}; expected "
                            f"[images, {blocks[0].shape[1]}] as before."
                        )
                    blocks.append(block)
                    keys.extend((cam, identity, number) for number in range(1, len(block) + 1))
    if not blocks:
        raise MixERValueError(f"{path} holds no feature of the wanted identities.")
    return torch.cat(blocks), keys


def _camera_files(path: Path) -> dict[int, Path]:
    pattern = re.compile(r"(.+)_cam([1-6])\.mat")
    match = None if is_litter(path.name) else pattern.fullmatch(path.name)
    if match and path.is_file():
        folder, wanted = path.parent, match[1]
    elif path.is_dir():
        folder, wanted = path, None
    else:
        raise MixERValueError(f"{path} is neither a folder nor a file named <name>_cam<1-6>.mat.")
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.iterdir()):
        if (match := pattern.fullmatch(file.name)) and not is_litter(file.name):
            found.setdefault(match[1], {})[int(match[2])] = file
    if wanted is None:
        if len(found) != 1:
            raise MixERValueError(
                f"{folder} must hold the files of one name, <name>_cam<1-6>.mat; it holds "
                f"{', '.join(sorted(found)) or 'none'}. Give one of the files to choose a name."
            )
        wanted = next(iter(found))
    return found[wanted]
