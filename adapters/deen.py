"""DEEN (Zhang and Wang, CVPR 2023; public code ZYK100/LLCM) and our baseline of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.base import LossInLoop, Tap, has_submodules
from mixer_plugin.adapters.registry import register_adapter

BRANCHES = 3


@register_adapter
class DEENAdapter(LossInLoop):
    """The last stage, whose rows are the images three times over; average pooling.

    Rows arrive in three blocks: maps as they are, and two learned variants. The related heads run
    on the first block alone. Aggregation and expansion, which stand between the stages, are no part
    of deeper heads. The blocks of the erased feature become columns, [B, 3 D]: the
    orthogonal loss takes its mean over them.
    """

    name = "deen"
    stage = "base_resnet.base.layer4"
    erased_before = Tap("bottleneck", "input")
    erased_after = Tap("bottleneck", "output")
    classifier = "classifier"
    base_losses = frozenset({"identity"})

    def matches(self, model: nn.Module) -> bool:
        """Two stems, and an expansion before the last stage."""
        return has_submodules(
            model,
            self.stage_path(model),
            "visible_module",
            "thermal_module",
            "DEE",
            "bottleneck",
            "classifier",
        )

    def stage_path(self, model: nn.Module) -> str:
        """``layer4``; the RegDB variant ends with ``layer3``, though it may hold the other."""
        return self.stage if has_submodules(model, "MFA3") else "base_resnet.base.layer3"

    def widths(self, model: nn.Module) -> tuple[int, int]:
        """Three blocks of the neck's width, and that width."""
        neck: Any = model.get_submodule("bottleneck")
        return BRANCHES * neck.num_features, neck.num_features

    def read(self, values: Mapping[str, list[Any]], taps: Mapping[str, Tap]) -> dict[str, Any]:
        """The unexpanded rows of the stage's input; the erased feature's blocks as columns."""
        found = super().read(values, taps)
        if found["stage_input"].shape[0] == found["erased_before"].shape[0]:  # behind the expansion
            found["stage_input"] = _blocks(found["stage_input"])[0]
        for name in ("erased_before", "erased_after"):
            found[name] = torch.cat(_blocks(found[name]), dim=1)
        return found

    def embed_one(self, model: nn.Module, images: Tensor, modality: int) -> Tensor:
        """Six L2-normalised blocks [B, 6 D] of the image, plus those of its mirror image.

        Per branch the feature before, then after the neck. The sum is not normalised again: a dot
        product of two is what the public test adds up block by block.
        """
        views = [model(x, x, modality + 1) for x in (images, images.flip(3))]
        outputs = [first + second for first, second in zip(*views, strict=True)]
        blocks = zip(*(_blocks(output) for output in outputs), strict=True)
        return torch.cat([block for branch in blocks for block in branch], dim=1)


def _blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """[3 B, …] → [B, …] three times; a recorded graph must see B in it, which chunk hides."""
    return rows.reshape(BRANCHES, -1, *rows.shape[1:]).unbind()
