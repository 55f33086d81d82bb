"""SGEIL on the small trunk, and a batch for it."""

from __future__ import annotations

import torch
from torch import nn

from mixer_plugin.baselines import create_baseline
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.baselines.sgeil import SGEIL, SGEILLoop


def small() -> SGEIL:
    """Sets of norms that differ from each other."""
    torch.manual_seed(0)
    model: SGEIL = create_baseline("sgeil", 4, trunk="small")  # type: ignore[assignment]
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
    return model


def batch(seed: int = 1) -> Batch:
    """Two rows of two identities per modality, not in the order of the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([3, 1, 1, 3]).repeat(2)
    modality = torch.tensor([0, 1]).repeat_interleave(4)
    images, shapes = torch.randn(2, 8, 3, 64, 32, generator=generator)
    return Batch(images, labels, modality, 1 + 2 * modality, shapes)


def started(model: nn.Module, mix: float = 0.0, epoch: int = 0) -> SGEILLoop:
    loop = SGEILLoop(mix=mix)
    loop.start_epoch(model, epoch)
    return loop
