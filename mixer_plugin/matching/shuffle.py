"""The control ``mixer-shuffled``: related features without identity information."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mixer_plugin.features import FeatureSet, Modality

_SEED = 20250301


def shuffled_rows(modality: Tensor) -> Tensor:
    """A fixed random permutation of the rows within each modality, int64 [N]."""
    # A generator of its own, on the CPU: the global random state is left alone, and the
    # permutation is the same on every device.
    generator = torch.Generator().manual_seed(_SEED)
    labels = modality.cpu()
    permutation = torch.arange(len(labels))
    for side in Modality:
        rows = (labels == side).nonzero().flatten()
        permutation[rows] = rows[torch.randperm(len(rows), generator=generator)]
    return permutation.to(modality.device)


def shuffle_related(features: FeatureSet) -> FeatureSet:
    """The same images with related features randomly permuted within each modality."""
    assert features.related is not None, "check_related comes first"
    return replace(features, related=features.related[shuffled_rows(features.modality)])


def shuffle_first(features: FeatureSet, rule: str) -> tuple[FeatureSet, str]:
    """Features and a rule with which ``scores`` equals what ``evaluate`` ranks under this rule.

    Under ``mixer-shuffled``, ``evaluate`` permutes the related features of all images once, and
    ``scores`` those of queries and gallery separately, so once more for every block. Here it
    becomes ``mixer`` on shuffled features; other rules stay as they are.
    """
    if rule != "mixer-shuffled" or features.related is None:
        return features, rule
    return shuffle_related(features), "mixer"
