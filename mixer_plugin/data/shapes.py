"""Body shapes of a data set's images: a second folder of the same layout (for SGEIL).

SGEIL (Feng et al., CVPR 2023) trains with the output of a human parsing network, one grey image per
photograph: the probability that a pixel shows head, torso or limbs.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from pathlib import Path

import numpy as np

from mixer_plugin.data.items import ImageList
from mixer_plugin.data.synthetic import plan, render_shapes
from mixer_plugin.data.synthetic_config import SyntheticConfig
from mixer_plugin.errors import MissingExtraError, MixERValueError


def read_shapes(folder: str | os.PathLike[str], images: ImageList) -> ImageList:
    """The shapes of images: the same relative paths below another folder.

    Args:
        folder: root of the shapes.
        images: n images.

    Returns:
        n shape images in the same order.

    Raises:
        MixERValueError: if one is missing.
    """
    root = Path(folder).absolute()
    paths = [root / Path(path).relative_to(images.root) for path in images.paths]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MixERValueError(
            f"{len(missing)} of {len(paths)} images have no body shape below {root}; the first is "
            f"{missing[0]}. Expected one file per image at the same relative path."
        )
    return dataclasses.replace(images, root=root, paths=tuple(map(str, paths)))


def write_shapes(
    folder: str | os.PathLike[str], config: SyntheticConfig, split: str = "train"
) -> None:
    """Writes the shapes of a synthetic set's split; a folder that exists is complete and kept.

    Args:
        folder: Folder to create.
        config: The data set, as given to ``write_sysu``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "bench", "Writing body shapes") from error
    root = Path(folder).absolute()
    if root.is_dir():
        return
    rows = plan(config)
    rows = rows[rows["split"] == split]
    aside = root.with_name(f"{root.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        for chunk in np.array_split(rows, max(1, len(rows) // 512)):
            for row, pixels in zip(chunk, render_shapes(config, chunk), strict=True):
                path = aside / f"cam{row['cam']}" / f"{row['pid']:04d}" / f"{row['number']:04d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, quality=95)
        aside.rename(root)
    except OSError:
        if not root.is_dir():  # another process may have finished the same set meanwhile
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
