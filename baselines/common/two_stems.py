"""What the script family (DDAG, DEEN, SGEIL) shares: a stem per modality before shared stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.baselines.common.trunks import Stages, Stem, load_trunk_weights

DEAD_STEMS = {
    r"(visible_module\.visible|thermal_module\.thermal)\.layer[1-4]\..*": (
        "stages of the stems' ResNets: only their first layers run"
    ),
    r"base_resnet\.base\.(conv1|bn1)\..*": (
        "the first layers of the shared ResNet: the stems' run in their place"
    ),
}


class Holder(nn.Module):
    """A module under the attribute name that the public code gives it; calls pass through."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.add_module(name, module)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        """The held module's output for ``x``."""
        (module,) = self.children()
        return module(x, **options)


class TwoStemNetwork(nn.Module):
    """A stem per modality and shared stages, under the script family's public names.

    Args:
        trunk: ``resnet50``, ``resnet18``, ``small`` or ``small-deep``.
        weights: local checkpoint with torchvision's names, for all three; or None.
        last: number of the last stage.

    Attributes:
        widths: channels after the stem and after each of the four stages.
    """

    def __init__(self, trunk: str, weights: str | Path | None, *, last: int = 4) -> None:
        super().__init__()
        thermal, visible, base = Stem(trunk), Stem(trunk), Stages(trunk, last=last)
        if weights is not None:
            for part in (thermal, visible, base):
                load_trunk_weights(part, weights)
        self.widths = [thermal.channels, *base.channels]
        self.thermal_module = Holder("thermal", thermal)
        self.visible_module = Holder("visible", visible)
        self.base_resnet = Holder("base", base)

    def stem_maps(self, x1: Tensor, x2: Tensor, modal: int) -> Tensor:
        """Maps [., C, h, w] of both modalities' rows (modal 0), visible (1) or infrared ones (2).

        Args:
            x1: visible images [B, 3, H, W].
            x2: infrared images [B, 3, H, W].
            modal: as the script family's forwards take it.
        """
        if modal == 0:
            return torch.cat([self.visible_module(x1), self.thermal_module(x2)])
        return self.visible_module(x1) if modal == 1 else self.thermal_module(x2)


def frozen_bias_norm(width: int) -> nn.BatchNorm1d:
    """The necks' batch normalisation: weight drawn around 1, bias frozen at zero."""
    norm = nn.BatchNorm1d(width)
    nn.init.normal_(norm.weight, 1.0, 0.01)
    norm.bias.requires_grad_(False)
    return norm


def reid_linear(inputs: int, outputs: int) -> nn.Linear:
    """A bias-free classifier with small weights, N(0, 0.001²)."""
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=0.001)
    return linear
