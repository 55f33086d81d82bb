"""SAAI on the small trunk, and a batch for it."""

from __future__ import annotations

import torch
from torch import Tensor

from mixer_plugin.baselines import create_baseline
from mixer_plugin.baselines.saai import SAAI


def small(name: str = "saai", **options: object) -> SAAI:
    torch.manual_seed(0)
    return create_baseline(name, 4, trunk="small", image_size=(64, 32), **options)  # type: ignore[return-value,arg-type]


def batch(rows: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels (two rows each) and cameras, infrared and visible in turn."""
    torch.manual_seed(1)
    labels = torch.arange(rows // 2).repeat_interleave(2)
    return torch.randn(rows, 3, 64, 32), labels, torch.tensor([3, 1, 6, 5]).repeat(rows // 4)
