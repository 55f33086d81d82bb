"""Momentum classifiers: moving averages of the per-modality classifiers (MPANet, SAAI)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def momentum_copy(live: nn.Linear) -> nn.Linear:
    """A bias-free copy that no optimizer updates."""
    copy = nn.Linear(live.in_features, live.out_features, bias=False)
    copy.weight.data.copy_(live.weight.data)
    copy.weight.requires_grad_(False)
    return copy


def modality_logits(net: Any, features: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of each modality's rows by its own classifier, and by the other one's momentum copy.

    The copies are updated first: each weight moves towards the live one by ``net.update_rate``.

    Args:
        net: has ``visible_classifier``, ``infrared_classifier`` and their copies (``…_``).
        features: [B, D], V of the rows visible and I infrared.
        infrared: [B] mask of infrared rows.

    Returns:
        float32 [V, C] and [I, C] by the live classifiers, and [V + I, C], visible rows first, by
        the copies, without gradient.
    """
    visible_rows, infrared_rows = features[~infrared], features[infrared]
    live = (
        net.visible_classifier(visible_rows).float(),
        net.infrared_classifier(infrared_rows).float(),
    )
    with torch.no_grad():
        net.visible_classifier_.weight.lerp_(net.visible_classifier.weight, net.update_rate)
        net.infrared_classifier_.weight.lerp_(net.infrared_classifier.weight, net.update_rate)
        taught = torch.cat(
            [net.infrared_classifier_(visible_rows), net.visible_classifier_(infrared_rows)]
        )
    return *live, taught.float()
