"""IDKL (Ren and Zhang, CVPR 2024; public code 1KK077/IDKL) and our baseline of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.base import LossInForward, Tap, has_submodules
from mixer_plugin.adapters.registry import register_adapter
from mixer_plugin.errors import MixERValueError

# The public model takes a batch of this size for a single image without its batch dimension.
_TAKEN_FOR_ONE = 2048


@register_adapter
class IDKLAdapter(LossInForward):
    """Stage ``layer4`` of the shared branch, generalised-mean pooling, one neck.

    The modality-specific branch, with a ``layer4`` of its own, is the base's affair: it serves
    training alone, and retrieval does not use it.
    """

    name = "idkl"
    stage = "backbone.shared_module_bh.model_sh_bh.layer4"
    erased_before = Tap("bn_neck", "input")
    erased_after = Tap("bn_neck", "output")
    classifier = "classifier"
    base_losses = frozenset({"identity"})

    def matches(self, model: nn.Module) -> bool:
        """A shared branch of that name beside the specific one, a neck and a classifier."""
        return has_submodules(model, self.stage, "backbone.special", "bn_neck", "classifier")

    def stages(self, model: nn.Module) -> tuple[str, ...]:
        """The first two stages, which both branches share, then the shared branch's own two."""
        first = "backbone.shared_module_fr.model_sh_fr"
        own = self.stage.removesuffix("layer4")
        return (f"{first}.layer1", f"{first}.layer2", f"{own}layer3", self.stage)

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Both are the neck's."""
        neck: Any = model.get_submodule("bn_neck")
        return neck.num_features, neck.num_features

    def pool(self, model: nn.Module, stage_map: Tensor) -> Tensor:
        """Generalised mean, p = 3, of values raised to at least 1e-6; in float32 at least."""
        # Their cube is zero in half precision, and its root has no gradient there.
        values = stage_map if stage_map.dtype == torch.float64 else stage_map.float()
        return values.clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3).to(stage_map.dtype)

    def embed(self, model: nn.Module, images: Tensor, modality: Tensor) -> Tensor:
        """As the base's; a single image runs beside itself.

        For a single image, and for 2048, the public model returns logits in place of features.

        Raises:
            MixERValueError: for a batch of 2048 images.
        """
        if images.shape[0] == _TAKEN_FOR_ONE:
            raise MixERValueError(
                f"IDKL got a batch of {_TAKEN_FOR_ONE} images, which its public code takes for a "
                "single one. Use another batch size."
            )
        if images.shape[0] == 1:
            images, modality = torch.cat([images, images]), torch.cat([modality, modality])
            return super().embed(model, images, modality)[:1]
        return super().embed(model, images, modality)
