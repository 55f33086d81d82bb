"""Position embeddings of a file, resized to a model for images of another size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin.errors import MixERValueError


def resized_positions(name: str, value: Tensor, places: int, grid: tuple[int, int]) -> Tensor:
    """A position embedding for a grid of patches, resized bicubically from a square of them.

    As Dosovitskiy et al. (ICLR 2021, sec. 3.2) fine-tune at another size. What stands before the
    patches, such as the class token, stays.

    Args:
        name: what messages call it.
        value: [..., N, D], places of at most two tokens, then those of a square of patches.
        places: number of places that the model has.
        grid: (rows, columns) of the model's patches, the last of its places.

    Returns:
        [..., places, D] in the value's dtype.

    Raises:
        MixERValueError: if the numbers of places are not so.
    """
    rows, columns = grid
    before = places - rows * columns
    patches = value.shape[-2] - before
    side = math.isqrt(max(patches, 0))
    if not 0 <= before <= 2 or side * side != patches or not side:
        raise MixERValueError(
            f"{name!r} cannot be resized to {rows} × {columns} patches: the model has {places} "
            "places, expected those patches and at most two tokens before them; the checkpoint "
            f"has {value.shape[-2]}, expected a square of patches after as many tokens. "
            "Nothing was loaded."
        )
    square = value[..., before:, :].reshape(-1, side, side, value.shape[-1]).permute(0, 3, 1, 2)
    found = F.interpolate(square.float(), size=grid, mode="bicubic", align_corners=False)
    resized = found.flatten(2).transpose(1, 2).reshape(*value.shape[:-2], -1, value.shape[-1])
    return torch.cat([value[..., :before, :], resized.to(value.dtype)], dim=-2)
