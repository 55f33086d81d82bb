"""SGEIL (Feng et al., CVPR 2023; public code jiawei151/SGIEL_VIReID) and our baseline of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixer_plugin.adapters.base import LossInLoop, Tap, has_submodules
from mixer_plugin.adapters.registry import register_adapter
from mixer_plugin.errors import MixERRuntimeError


@register_adapter
class SGEILAdapter(LossInLoop):
    """Stage ``base_resnet.base.layer4``, with a set of norms per kind of image; GeM pooling.

    A forward over both modalities calls the stage once per modality, and once more with body
    shapes, which the plug-in leaves alone; each modality has a neck of its own. The head of a
    modality uses that modality's norms.
    """

    name = "sgeil"
    stage = "base_resnet.base.layer4"
    erased_before = Tap("bottleneck", "input")
    erased_after = Tap("bottleneck", "output")
    more_taps: Mapping[str, Tap] = {
        "infrared_before": Tap("bottleneck_ir", "input"),
        "infrared_after": Tap("bottleneck_ir", "output"),
    }
    classifier = "classifier"
    base_losses = frozenset({"identity"})
    switch = "mode"

    def matches(self, model: nn.Module) -> bool:
        """Two stems, and necks for visible, infrared and shape rows."""
        return has_submodules(
            model,
            self.stage,
            "visible_module",
            "thermal_module",
            "bottleneck",
            "bottleneck_ir",
            "bottleneck_shape",
            "classifier",
        )

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Both are the neck's."""
        neck: Any = model.get_submodule("bottleneck")
        return neck.num_features, neck.num_features

    def stage_blocks(self, model: nn.Module) -> tuple[str, ...]:
        """The stage's sequential has a forward of its own: it hands on which norms to use."""
        names = [name for name, _ in self.stage_module(model).named_children()]
        return tuple(f"{self.stage}.{name}" for name in names)

    def run_stage(self, stage: nn.Module, x: Tensor, modality: int) -> Tensor:
        """The stage's second argument says which norms to use."""
        return stage(x, modality)

    def prepare_clone(self, stage: nn.Module, modality: int) -> None:
        """Freezes the norms of the other kinds: they never run, so they never get a gradient."""
        for name, module in stage.named_modules():
            if isinstance(module, _BatchNorm):
                infrared = name.endswith("_ir")
                visible = not infrared and not name.endswith(("_shape", "_modalx"))
                module.requires_grad_(infrared if modality == 1 else visible)

    def pool(self, model: nn.Module, stage_map: Tensor) -> Tensor:
        """GeM with p = 3, in float32 at least: third powers of half-precision maps overflow.

        Of values from 0: a low-rank path or attention may take a map below, and roots have none.
        """
        x = stage_map.flatten(2).clamp(min=0)
        wide = x if x.dtype == torch.float64 else x.float()
        return ((wide**3.0).mean(-1) + 1e-12).pow(1 / 3.0).to(x.dtype)

    def read(self, values: Mapping[str, list[Any]], taps: Mapping[str, Tap]) -> dict[str, Any]:
        """Joins the calls of both modalities, visible first; a third call of the stage is shape's.

        Raises:
            MixERRuntimeError: if stage and necks ran another number of times.
        """
        before = values["erased_before"] + values["infrared_before"]
        after = values["erased_after"] + values["infrared_after"]
        calls = len(values["stage_input"]), len(before), len(after)
        if calls not in ((1, 1, 1), (2, 2, 2), (3, 2, 2)):
            ran = {f"{taps[name].path} ({taps[name].side})": len(v) for name, v in values.items()}
            raise MixERRuntimeError(
                f"Modules ran this often in one forward: {ran}. The adapter {self.name!r} expects "
                "the stage once per modality, then at most once for body shapes, and a neck per "
                "modality. Use an adapter whose paths lie on the forward's way."
            )
        return {
            "stage_input": torch.cat(values["stage_input"][: len(before)]),
            "erased_before": torch.cat(before),
            "erased_after": torch.cat(after),
        }

    def embed_one(self, model: nn.Module, images: Tensor, modality: int) -> Tensor:
        """The second output, [B, D], mean over the image and its mirror image, not normalised."""
        views = [model(x, x, mode=modality + 1)[1] for x in (images, images.flip(3))]
        return (views[0] + views[1]) / 2
