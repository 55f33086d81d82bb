"""Features for commands to read."""

from __future__ import annotations

import torch

from mixer_plugin import FeatureSet


def features(seed: int = 0) -> FeatureSet:
    """48 images of 6 persons in 2 cameras of both modalities, without paths."""
    erased, related = torch.randn(2, 48, 8, generator=torch.Generator().manual_seed(seed))
    rows = torch.arange(48)
    return FeatureSet(erased, related, rows % 6, rows % 2 + 1, (rows + rows // 6) % 2)
