"""IDKL on the small trunk, and a batch for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixer_plugin.baselines import create_baseline


def small(**options: Any) -> Any:
    torch.manual_seed(0)
    return create_baseline("idkl", 4, trunk="small", **options)


def batch(k: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels (two identities, k rows per modality) and cameras, I and V in turn."""
    torch.manual_seed(1)
    labels = torch.tensor([3, 1]).repeat_interleave(2 * k)
    return torch.randn(4 * k, 3, 64, 32), labels, torch.tensor([3, 1, 6, 2]).repeat(k)
