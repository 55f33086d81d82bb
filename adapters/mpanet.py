"""MPANet (Wu et al., CVPR 2021; public code DoubtedSteam/MPANet) and our baseline of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mixer_plugin.adapters.base import LossInForward, Tap, has_submodules, parts_and_mean
from mixer_plugin.adapters.registry import register_adapter


@register_adapter
class MPANetAdapter(LossInForward):
    """Stage ``backbone.layer4`` between MAM3 and MAM4; learned part masks; one neck.

    The related branch takes MAM3's output into its clones and goes from there straight to pooling:
    MAM4 mixes in an instance-normalised copy of the map, which takes out what the related feature
    is there to keep. For the same reason deeper heads leave out MAM3 as well. Its parts use the
    erased branch's masks, detached.
    """

    name = "mpanet"
    stage = "backbone.layer4"
    erased_before = Tap("bn_neck", "input")
    erased_after = Tap("bn_neck", "output")
    classifier = "classifier"
    base_losses = frozenset({"identity", "center_cluster"})

    def matches(self, model: nn.Module) -> bool:
        """One neck for both modalities, and the moving copies of the per-modality classifiers."""
        paths = (self.stage, "bn_neck", "classifier", "visible_classifier_", "infrared_classifier_")
        return has_submodules(model, *paths) and isinstance(
            model.get_submodule("bn_neck"), nn.BatchNorm1d
        )

    def taps(self, model: nn.Module) -> dict[str, Tap]:
        """Adds the part masks where the model has parts."""
        taps = super().taps(model)
        if has_submodules(model, "spatial_attention", "activation"):
            taps["parts"] = Tap("activation", "output")
        return taps

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Both are the neck's: parts and global mean."""
        neck: Any = model.get_submodule("bn_neck")
        return neck.num_features, neck.num_features

    def pool(self, model: nn.Module, stage_map: Tensor, parts: Tensor | None = None) -> Tensor:
        """Part means under the base's masks ``parts``, then the global mean."""
        return parts_and_mean(stage_map, parts)
