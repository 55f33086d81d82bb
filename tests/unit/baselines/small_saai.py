"""SAAI or MPANet on the small trunk, and a batch for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixer_plugin.baselines import create_baseline

HEADS = ["visible_classifier", "infrared_classifier", "visible_classifier_", "infrared_classifier_"]
NECK = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def small(name: str = "saai", **options: Any) -> Any:
    torch.manual_seed(0)
    size = {} if name == "mpanet" else {"image_size": (64, 32)}
    return create_baseline(name, 4, trunk="small", **size, **options)


def batch(rows: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels (two rows each) and cameras, infrared and visible in turn."""
    torch.manual_seed(1)
    labels = torch.arange(rows // 2).repeat_interleave(2)
    return torch.randn(rows, 3, 64, 32), labels, torch.tensor([3, 1, 6, 5]).repeat(rows // 4)
