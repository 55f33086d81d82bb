"""AGW and CAJ (Ye et al., TPAMI 2021 and ICCV 2021; public code Cross-Modal-Re-ID-baseline)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.base import LossInLoop, Tap, first_block, has_submodules
from mixer_plugin.adapters.registry import register_adapter

# What networks of this structure have beside it that adapters of their own know.
_OTHERS = ("wpa.bottleneck", "attention_0", "DEE", "bottleneck_ir")


@register_adapter
class AGWAdapter(LossInLoop):
    """Stage ``base_resnet.base.layer4``, whose blocks the forward may call one by one; one neck.

    The generalised mean, inline in the forward, or average pooling where ``gm_pool`` is ``off``.
    Non-local blocks, which stand between blocks of ``layer2`` and ``layer3``, are no part of deeper
    heads.
    """

    name = "agw"
    stage = "base_resnet.base.layer4"
    erased_before = Tap("bottleneck", "input")
    erased_after = Tap("bottleneck", "output")
    classifier = "classifier"
    base_losses = frozenset({"identity"})

    def matches(self, model: nn.Module) -> bool:
        """Two stems, shared stages, a neck and a classifier, and none of the other codebases'."""
        shared = ("visible_module", "thermal_module", "bottleneck", "classifier")
        return has_submodules(model, self.stage, *shared) and not any(
            has_submodules(model, path) for path in _OTHERS
        )

    def entry(self, model: nn.Module, path: str) -> str:
        """The first block of a stage."""
        return first_block(model, path)

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Both are the neck's."""
        neck: Any = model.get_submodule("bottleneck")
        return neck.num_features, neck.num_features

    def pool(self, model: nn.Module, stage_map: Tensor) -> Tensor:
        """The generalised mean, p = 3, in float32 at least; the mean where ``gm_pool`` is off."""
        x = stage_map.flatten(2)
        if getattr(model, "gm_pool", "on") in ("off", False):
            return x.mean(-1)
        # Of values from 0: a low-rank path may take the base's own below it.
        wide = x.clamp(min=0) if x.dtype == torch.float64 else x.clamp(min=0).float()
        return ((wide**3.0).mean(-1) + 1e-12).pow(1 / 3.0).to(x.dtype)

    def embed_one(self, model: nn.Module, images: Tensor, modality: int) -> Tensor:
        """The second output, behind the neck and L2-normalised: ``FC`` in the public test."""
        return model(images, images, modality + 1)[1]
