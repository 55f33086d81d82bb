"""AGW and CAJ (Ye et al., TPAMI 2021 and ICCV 2021; public code Cross-Modal-Re-ID-baseline)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.base import Call, LossInLoop, Tap, first_block, has_submodules
from mixer_plugin.adapters.generic.inputs import forward_parameters
from mixer_plugin.adapters.registry import register_adapter

# Modules that show a network of this structure to be one that another adapter knows.
_OTHERS = ("wpa.bottleneck", "attention_0", "DEE", "bottleneck_ir")


@register_adapter
class AGWAdapter(LossInLoop):
    """Stage ``base_resnet.base.layer4``, whose blocks the forward may call one by one; one neck.

    Pooling is the generalised mean, inline in the forward, or the mean where ``gm_pool`` is
    ``off``. Non-local blocks, which stand between blocks of ``layer2`` and ``layer3``, are no part
    of deeper heads. A modality may have two stems (MSCMNet: ``x1_1, x1_2, x2_1, x2_2``), whose maps
    are rows of their own in training and averaged in evaluation.
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
        # Of values from 0: a low-rank path or attention may take a map below.
        wide = x.clamp(min=0) if x.dtype == torch.float64 else x.clamp(min=0).float()
        return ((wide**3.0).mean(-1) + 1e-12).pow(1 / 3.0).to(x.dtype)

    def row_modality(self, call: Call) -> Tensor | None:
        """By ``x1`` and ``x2``; with two stems per modality, by what each of the four was given."""
        names, chosen = _images(call.model), call.argument(self.switch) or 0
        if len(names) < 4:
            return super().row_modality(call)
        sides = [(name, int(name.startswith("x2"))) for name in names]
        if chosen:  # one row per image: the mean of both stems
            sides = [next(each for each in sides if each[1] == chosen - 1)]
        return torch.cat([torch.full(call.argument(name).shape[:1], side) for name, side in sides])

    def embed_one(self, model: nn.Module, images: Tensor, modality: int) -> Tensor:
        """The L2-normalised feature after the neck: the second output, or the only one."""
        named = dict.fromkeys(_images(model), images)
        found = model(**named, **{self.switch: modality + 1})
        return found if isinstance(found, Tensor) else found[1]


def _images(model: nn.Module) -> list[str]:
    """The forward's arguments of images."""
    return [name for name in forward_parameters(model)[1] if name[:2] in ("x1", "x2")]
