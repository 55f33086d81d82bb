"""Reads features in the form that SYSU-MM01's own MATLAB evaluation takes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.errors import MissingExtraError, MixERValueError
from mixer_plugin.features import FeatureSet


def load_sysu_mat(
    path: str | os.PathLike[str],
    *,
    related: str | os.PathLike[str] | None = None,
    ids: Iterable[int] | None = None,
) -> FeatureSet:
    """Reads features in the form that SYSU-MM01's MATLAB evaluation takes.

    One file per camera, ``<name>_cam1.mat`` to ``<name>_cam6.mat`` (those that are there), each
    with a cell ``feature``: ``feature{id}(i,:)`` is the feature of image i of that identity
    (github.com/wuancong/SYSU-MM01, evaluation/README.md). Cameras 3 and 6 are infrared. Rows come
    sorted by camera, identity and image number, with paths ``cam1/0006/0001.jpg``.

    Args:
        path: The folder, or one of the files where a folder holds several names.
        related: The same for the modality-related features, if there are any.
        ids: Identities to keep, such as those of ``test_id.mat``; None keeps all that have images.

    Returns:
        The features of all cameras that were found.

    Raises:
        MissingExtraError: SciPy is not installed.
        MixERValueError: No such files, several names in the folder, a file is not a MATLAB 5 file
            (save with ``-v7``, not ``-v7.3``), or the related features are of other images.
    """
    keep = None if ids is None else {int(identity) for identity in ids}
    features, keys = _read_sysu_mat(Path(path), keep)
    second = None
    if related is not None:
        second, other = _read_sysu_mat(Path(related), keep)
        if other != keys:
            raise MixERValueError(
                f"{related} holds {len(other)} features of other images than {path} "
                f"({len(keys)}); both must cover the same images."
            )
    cams = np.asarray([cam for cam, _, _ in keys], dtype=np.int64)
    return FeatureSet(
        erased=features,
        related=second,
        ids=torch.tensor([identity for _, identity, _ in keys], dtype=torch.int64),
        cams=torch.from_numpy(cams),
        modality=torch.from_numpy(np.isin(cams, (3, 6)).astype(np.int64)),
        paths=tuple(f"cam{cam}/{identity:04d}/{number:04d}.jpg" for cam, identity, number in keys),
    )


def _read_sysu_mat(path: Path, keep: set[int] | None) -> tuple[Tensor, list[tuple[int, int, int]]]:
    try:
        import scipy.io
    except ImportError as error:
        raise MissingExtraError("scipy", "bench", "Reading .mat features") from error
    blocks: list[np.ndarray] = []
    keys: list[tuple[int, int, int]] = []
    for cam, file in sorted(_camera_files(path).items()):
        try:
            content = scipy.io.loadmat(file)
        except (ValueError, NotImplementedError, TypeError, OSError) as error:
            raise MixERValueError(
                f"{file} is not a MATLAB 5 file ({error}); save it with -v7, not -v7.3."
            ) from error
        if "feature" not in content:
            names = [name for name in content if not name.startswith("__")]
            raise MixERValueError(f"{file} has no variable 'feature', only {names}.")
        cells = np.asarray(content["feature"], dtype=object).reshape(-1)
        for identity, cell in enumerate(cells, start=1):
            block = np.asarray(cell)
            if block.size and (keep is None or identity in keep):
                if block.ndim != 2 or (blocks and block.shape[1] != blocks[0].shape[1]):
                    raise MixERValueError(
                        f"{file}: feature{{{identity}}} has shape {block.shape}; expected "
                        f"[images, {blocks[0].shape[1] if blocks else 'width'}]."
                    )
                blocks.append(block.astype(np.float32))
                keys.extend((cam, identity, number) for number in range(1, len(block) + 1))
    if not blocks:
        raise MixERValueError(f"{path} holds no feature of the wanted identities.")
    return torch.from_numpy(np.concatenate(blocks)), keys


def _camera_files(path: Path) -> dict[int, Path]:
    pattern = re.compile(r"(.+)_cam([1-6])\.mat")
    if path.is_file() and (match := pattern.fullmatch(path.name)):
        folder, wanted = path.parent, match[1]
    elif path.is_dir():
        folder, wanted = path, None
    else:
        raise MixERValueError(f"{path} is neither a folder nor a file named <name>_cam<1-6>.mat.")
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.iterdir()):
        if match := pattern.fullmatch(file.name):
            found.setdefault(match[1], {})[int(match[2])] = file
    if wanted is None:
        if len(found) != 1:
            raise MixERValueError(
                f"{folder} must hold the files of one name, <name>_cam<1-6>.mat; it holds "
                f"{', '.join(sorted(found)) or 'none'}. Give one of the files to choose a name."
            )
        wanted = next(iter(found))
    return found[wanted]
