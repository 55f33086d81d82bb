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

from mixer_plugin.data.datasets.findings import some
from mixer_plugin.data.datasets.image_checks import require_pillow
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.synthetic import render_shapes
from mixer_plugin.data.synthetic.config import SyntheticConfig
from mixer_plugin.data.synthetic.layouts import list_files
from mixer_plugin.errors import MixERValueError


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
    folder: str | os.PathLike[str], config: SyntheticConfig, images: ImageList, layout: str = "sysu"
) -> None:
    """Writes the shapes of a synthetic set's images; a folder that exists is complete and kept.

    Args:
        folder: Folder to create.
        config: The data set, as given to ``write_layout``.
        images: The images that get shapes, as read from the data set.
        layout: Layout of the data set.

    Raises:
        MixERValueError: The layout is unknown, or an image is none of this data set.
        MissingExtraError: Pillow is not installed.
    """
    require_pillow("Writing body shapes")
    from PIL import Image

    root = Path(folder).absolute()
    if root.is_dir():
        return
    listing = list_files(config, layout)
    places = {place: row for row, own in enumerate(listing.paths) for place in own}
    wanted = [Path(path).relative_to(images.root).as_posix() for path in images.paths]
    strange = [place for place in wanted if place not in places]
    if strange:
        raise MixERValueError(
            f"{images.root} has images that the settings of its generator do not make: "
            f"{some(strange)}. Give the settings that it was written with."
        )
    aside = root.with_name(f"{root.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        for first in range(0, len(wanted), 512):
            chunk = wanted[first : first + 512]
            rows = listing.rows[[places[place] for place in chunk]]
            for place, pixels in zip(chunk, render_shapes(config, rows), strict=True):
                (aside / place).parent.mkdir(parents=True, exist_ok=True)
                # Other formats than JPEG have no quality and pass over it.
                Image.fromarray(pixels).save(aside / place, quality=95)
        aside.rename(root)
    except OSError:
        if not root.is_dir():  # another process may have finished the same set meanwhile
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
