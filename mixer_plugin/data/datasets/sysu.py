"""Reader of SYSU-MM01 in its released layout.

Wu et al., RGB-Infrared Cross-Modality Person Re-Identification, ICCV 2017; layout and split files
of the release. The synthetic sets of ``mixer_plugin.data.synthetic`` lie in the same layout.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from mixer_plugin.data.datasets.findings import raise_errors
from mixer_plugin.data.datasets.image_checks import check_colours, check_names
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.sysu_checks import (
    SPLITS,
    check_cameras,
    check_draws,
    check_permutation,
    check_root,
    check_splits,
    list_images,
)
from mixer_plugin.errors import MissingExtraError, check_name
from mixer_plugin.releases import SYSU


def read_sysu(root: str | os.PathLike[str], split: str) -> ImageList:
    """Lists the images of a split.

    Args:
        root: Folder that holds ``cam1`` ... ``cam6`` and ``exp``.
        split: ``train``, ``val``, ``trainval`` (both, as most methods train) or ``test``.

    Returns:
        All images of the split, sorted by camera, identity and image number; cameras 3 and 6 are
        infrared.

    Raises:
        MixERValueError: The split is unknown, or the folder lacks or contradicts something; the
            message names all that was found (``diagnose`` checks more). For ``test``, the gallery
            draws are compared with the files, too, if they are there and can be read.
        MissingExtraError: Only ``.mat`` split files are there and SciPy is not installed.
    """
    check_name("split", split, (*SPLITS, "trainval"))
    wanted = ("train", "val") if split == "trainval" else (split,)
    root = Path(root).absolute()
    raise_errors(check_root(root) or check_cameras(root), root)
    ids, findings = check_splits(root, wanted)
    raise_errors(findings, root)
    found: dict[tuple[int, int], list[Path]] = {}
    for name in wanted:
        listing = list_images(root, ids[name].tolist(), both_modalities=split != "test", split=name)
        raise_errors(listing.findings, root)
        found.update(listing.paths)
    # Draws of another release are refused here already, not only by the evaluation.
    if split == "test" and (root / "exp" / "rand_perm_cam.mat").is_file():
        with suppress(MissingExtraError):
            draws, findings = check_permutation(root)
            raise_errors([*findings, *(check_draws(draws, found) if draws else ())], root)
    images = image_list(root, found)
    raise_errors(check_names([images]) + check_colours(images), root)
    return images


def image_list(root: Path, found: dict[tuple[int, int], list[Path]]) -> ImageList:
    """A list of images by (camera, identity), sorted by both."""
    order = sorted(found)
    counts = [len(found[key]) for key in order]
    cams = np.repeat(np.asarray([cam for cam, _ in order], dtype=np.int64), counts)
    return ImageList(
        root=root,
        paths=tuple(str(path) for key in order for path in found[key]),
        ids=np.repeat(np.asarray([identity for _, identity in order], dtype=np.int64), counts),
        cams=cams,
        modality=np.isin(cams, SYSU.infrared).astype(np.int64),
    )
