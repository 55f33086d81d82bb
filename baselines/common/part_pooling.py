"""Pooling of a map under soft part masks (MPANet, SAAI)."""

from __future__ import annotations

from torch import Tensor


def part_means(stage_map: Tensor, masks: Tensor) -> Tensor:
    """Mean over all positions of the map under each mask.

    Args:
        stage_map: [B, D, H, W].
        masks: [B, P, H * W] or [B, P, H, W].

    Returns:
        [B, P * D], one part after the other.
    """
    pixels = stage_map.flatten(2).transpose(1, 2)
    return (masks.flatten(2) @ pixels / pixels.shape[1]).flatten(1)
