"""Attributes and pixels of synthetic images: rows of a plan in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin.data.synthetic.config import SyntheticConfig
from mixer_plugin.data.synthetic.draws import Stream, keys, normals, pixel_noise, uniforms
from mixer_plugin.data.synthetic.factors import INFRARED, NAMES, SHARED, VISIBLE
from mixer_plugin.data.synthetic.person import (
    CAMERA_NORMALS,
    NUISANCE_NORMALS,
    NUISANCE_UNIFORMS,
    Scene,
    draw,
    draw_shape,
)
from mixer_plugin.data.synthetic.plan import INFRARED_CAMERAS, SPLITS, plan

_CHUNK_PIXELS = 2**18  # per plane: few calls per image, and the cache still holds a plane
_OTHER_MODALITY = 16  # more than there are cameras


def identity_factors(config: SyntheticConfig) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """The attributes of all identities.

    Args:
        config: The data set.

    Returns:
        float32 [n_ids, 50] in (0, 1), row ``pid - 1``, and the names of the columns: 18 shared,
        then 17 visible-only, then 15 infrared-only. With a cue below 1 they are what the identity
        contributes to what an image shows.
    """
    rows = plan(config)
    _, first = np.unique(rows["pid"], return_index=True)
    return _copula(_identity_normals(config, rows[first])).astype(np.float32), NAMES


def render(config: SyntheticConfig, rows: NDArray[np.void]) -> NDArray[np.uint8]:
    """Renders images.

    Args:
        config: The data set.
        rows: n rows of ``plan(config)``, in any order.

    Returns:
        uint8 [n, height, width, 3]; an infrared image holds its single channel three times.
    """
    return _render(config, rows, draw)


def render_shapes(config: SyntheticConfig, rows: NDArray[np.void]) -> NDArray[np.uint8]:
    """Renders the body shapes of images: 255 on the person, 0 elsewhere.

    Args:
        config: The data set.
        rows: n rows of ``plan(config)``, in any order.

    Returns:
        uint8 [n, height, width, 3], three equal channels.
    """
    return _render(config, rows, lambda scene: draw_shape(scene)[..., None])


def _render(
    config: SyntheticConfig,
    rows: NDArray[np.void],
    draw_scene: Callable[[Scene], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    images = np.empty((len(rows), config.height, config.width, 3), dtype=np.uint8)
    step = max(1, _CHUNK_PIXELS // (config.height * config.width))
    infrared = rows["infrared"]
    for mask in (~infrared, infrared):
        places = np.flatnonzero(mask)
        channels = 1 if mask is infrared else 3
        for start in range(0, len(places), step):
            chunk = places[start : start + step]
            images[chunk] = draw_scene(_scene(config, rows[chunk], channels))
    return images


def _split_number(rows: NDArray[np.void]) -> NDArray[np.int64]:
    kinds = (*SPLITS, "extra", "junk")
    return np.select([rows["split"] == kind for kind in kinds], range(len(kinds)))


def image_keys(config: SyntheticConfig, stream: int, rows: NDArray[np.void]) -> NDArray[np.uint64]:
    """The keys of images' own draws of a stream: uint64 [n]."""
    # In SYSU-MM01 the camera tells the modality; a camera that takes the other one as well (LLCM,
    # Market-1501) has a second number for it, so that common images have common keys.
    as_sysu = np.isin(rows["cam"], INFRARED_CAMERAS) == rows["infrared"]
    view = np.where(as_sysu, rows["cam"], rows["cam"] + _OTHER_MODALITY)
    return keys(config.seed, stream, _split_number(rows), rows["index"], view, rows["number"])


def _identity_normals(config: SyntheticConfig, rows: NDArray[np.void]) -> NDArray[np.float64]:
    split = _split_number(rows)
    return normals(keys(config.seed, Stream.IDENTITY, split, rows["index"]), len(NAMES))


def _copula(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.special.ndtr(torch.from_numpy(z)).numpy()


def shown_attributes(config: SyntheticConfig, rows: NDArray[np.void]) -> NDArray[np.float64]:
    """The attributes that images show, the identity's share and the image's own: [n, 50]."""
    groups = (
        (config.shared_cue, len(SHARED)),
        (config.visible_cue, len(VISIBLE)),
        (config.infrared_cue, len(INFRARED)),
    )
    cue = np.concatenate([np.full(size, share) for share, size in groups])
    own = normals(image_keys(config, Stream.IMAGE, rows), len(NAMES))
    # The squares of the weights add to one: the sum stays standard normal whatever the cue.
    return _copula(np.sqrt(cue) * _identity_normals(config, rows) + np.sqrt(1 - cue) * own)


def _scene(config: SyntheticConfig, rows: NDArray[np.void], channels: int) -> Scene:
    shape = (channels, config.height, config.width)
    noise = pixel_noise(image_keys(config, Stream.NOISE, rows), math.prod(shape))
    return Scene(
        attributes=shown_attributes(config, rows),
        normals=normals(image_keys(config, Stream.POSE, rows), NUISANCE_NORMALS),
        uniforms=uniforms(image_keys(config, Stream.CLUTTER, rows), NUISANCE_UNIFORMS),
        camera=normals(keys(config.seed, Stream.CAMERA, rows["cam"]), CAMERA_NORMALS),
        noise=noise.reshape(len(rows), *shape),
        config=config,
    )
