"""The toys with lighter related heads: the last block of the stage alone, or a low-rank path."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.baselines.common.norm_sets import KindBlock
from mixer_plugin.baselines.common.trunks import BasicBlock
from tests.contract.toys import TOYS, Toy


def deeper(toy: Toy) -> Toy:
    """The row with one block more in its stage: that of most toys is a single one."""
    if toy.name == "generic/vit":
        tokens = GenericAdapter(("blocks", "norm"), neck="neck", modality="modality")
        return dataclasses.replace(toy, adapter=lambda: tokens)

    def build() -> nn.Module:
        model = toy.build()
        stage: Any = model.get_submodule(toy.resolved.stage_path(model))
        if toy.name.startswith("generic"):
            conv = nn.Conv2d(12, 12, 3, padding=1)
            stage.extend([conv, nn.BatchNorm2d(12), nn.ReLU(inplace=True)])
        else:
            width = stage[-1].conv2.out_channels
            block: nn.Module = BasicBlock(width, width, 1)
            stage.append(KindBlock(block) if toy.name == "sgeil" else block)
        return model

    return dataclasses.replace(toy, build=build)


def lighter(name: str, blocks: str) -> Toy:
    """A row of the toy table, wrapped with another ``related_blocks``."""
    toy = deeper(TOYS[name]) if blocks == "last" else TOYS[name]
    return dataclasses.replace(toy, name=f"{name}/{blocks}", related_blocks=blocks)


LIGHTER = {
    toy.name: toy
    for toy in (
        *(lighter(name, "last") for name in TOYS),
        *(lighter(name, "low-rank") for name in TOYS if name != "generic/vit"),
    )
}
