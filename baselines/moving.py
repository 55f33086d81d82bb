"""Slowly moving copies of the per-modality classifiers (MPANet, SAAI)."""

from __future__ import annotations

import torch
from torch import nn


def moving_copy(live: nn.Linear) -> nn.Linear:
    """A bias-free copy that no optimizer touches."""
    copy = nn.Linear(live.in_features, live.out_features, bias=False)
    copy.weight.data.copy_(live.weight.data)
    copy.weight.requires_grad_(False)
    return copy


@torch.no_grad()
def move(moving: nn.Linear, live: nn.Linear, rate: float) -> None:
    """Moves the copy towards the live weights by a share ``rate``."""
    moving.weight.lerp_(live.weight, rate)
