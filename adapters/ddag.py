"""DDAG (Ye et al., ECCV 2020; public code mangye16/DDAG) and our baseline of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mixer_plugin.adapters.base import LossInLoop, Tap, has_submodules
from mixer_plugin.adapters.registry import register_adapter


@register_adapter
class DDAGAdapter(LossInLoop):
    """Stage ``base_resnet.base.layer4``, average pooling; a neck of its own behind the parts.

    The feature that retrieval uses is ``wpa``'s: global feature plus part attention, after its own
    batch norm. Without ``wpa`` (forks) it is ``bottleneck``'s.
    """

    name = "ddag"
    stage = "base_resnet.base.layer4"
    erased_before = Tap("bottleneck", "input")
    erased_after = Tap("bottleneck", "output")
    classifier = "classifier"
    base_losses = frozenset({"identity"})

    def matches(self, model: nn.Module) -> bool:
        """Two stems, shared stages, and part attention or graph attention over the batch."""
        shared = ("visible_module", "thermal_module", "bottleneck", "classifier")
        return has_submodules(model, self.stage, *shared) and (
            has_submodules(model, "wpa.bottleneck") or has_submodules(model, "attention_0")
        )

    def taps(self, model: nn.Module) -> dict[str, Tap]:
        """The neck behind the parts where there is one."""
        taps = super().taps(model)
        if has_submodules(model, "wpa.bottleneck") and getattr(model, "lpa", True):
            taps["erased_after"] = Tap("wpa.bottleneck", "output")
        return taps

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Both are the neck's."""
        neck: Any = model.get_submodule("bottleneck")
        return neck.num_features, neck.num_features

    def embed_one(self, model: nn.Module, images: Tensor, modality: int) -> Tensor:
        """The second output, L2-normalised, as the public checkpoint is selected by."""
        return model(images, images, 0, modality + 1)[1]
