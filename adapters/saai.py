"""SAAI (Fang et al., ICCV 2023; public code xiaoye-hhh/SAAI) and our baseline of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.base import LossInForward, Tap, has_submodules, parts_and_mean
from mixer_plugin.adapters.registry import register_adapter


@register_adapter
class SAAIAdapter(LossInForward):
    """Stage ``backbone.layer4`` between MAM3 and MAM4; learned part masks; a dual in-place neck.

    The related branch takes MAM3's output into its clones and goes from there straight to pooling:
    MAM4 mixes in an instance-normalised copy of the map, which takes out what the related feature
    is there to keep. For the same reason deeper heads leave out MAM3 as well. Its parts use the
    erased branch's masks, detached. Of a ViT, ``layer4`` takes tokens and gives a map.
    """

    name = "saai"
    stage = "backbone.layer4"
    # The neck writes its output into its input, hence the copy.
    erased_before = Tap("bn_neck", "input", clone=True)
    erased_after = Tap("bn_neck", "output")
    classifier = "classifier"
    base_losses = frozenset({"identity", "center_cluster"})

    def matches(self, model: nn.Module) -> bool:
        """A dual neck and the moving copies of the per-modality classifiers."""
        return has_submodules(
            model,
            self.stage,
            "bn_neck.bn_neck_v",
            "bn_neck.bn_neck_i",
            "classifier",
            "visible_classifier_",
            "infrared_classifier_",
        )

    def taps(self, model: nn.Module) -> dict[str, Tap]:
        """Adds the part masks where the model has parts."""
        taps = super().taps(model)
        if has_submodules(model, "attn_pool"):
            taps["parts"] = Tap("attn_pool", "output")
        return taps

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Both are the neck's: parts and global mean."""
        neck: Any = model.get_submodule("bn_neck.bn_neck_v")
        return neck.num_features, neck.num_features

    def prepare_export(self, model: nn.Module) -> None:
        """The dual neck, which picks rows by a mask, by one that picks results."""
        neck: Any = model.get_submodule("bn_neck")
        model.add_module("bn_neck", _BothNecks(neck.bn_neck_v, neck.bn_neck_i))

    def pool(
        self, model: nn.Module, stage_map: Tensor, parts: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Part means under the base's masks (``parts``: features, masks), then the global mean."""
        return parts_and_mean(stage_map, None if parts is None else parts[1])


class _BothNecks(nn.Module):
    """The dual neck in eval mode: both run on all rows, and each row keeps its own."""

    def __init__(self, visible: nn.Module, infrared: nn.Module) -> None:
        super().__init__()
        self.bn_neck_v, self.bn_neck_i = visible, infrared

    def forward(self, x: Tensor, infrared: Tensor) -> Tensor:
        """[B, D] and [B], true or 1 where a row is infrared → [B, D]."""
        own = torch.as_tensor(infrared == 1)[:, None]
        return torch.where(own, self.bn_neck_i(x), self.bn_neck_v(x))
