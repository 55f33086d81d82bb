"""The toys with other related heads: lighter, deeper, attending, shared, on ordinary labels."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.baselines.common.norm_sets import KindBlock
from mixer_plugin.baselines.common.trunks import BasicBlock
from mixer_plugin.baselines.common.vit import EncoderBlock
from tests.contract.toys import TOYS, Toy


def deeper(toy: Toy) -> Toy:
    """The row with one block more in its stage: that of most toys is a single one."""
    if toy.name == "generic/vit":
        tokens = GenericAdapter(("blocks", "norm"), neck="neck", modality="modality")
        return dataclasses.replace(toy, adapter=lambda: tokens)

    def build() -> nn.Module:
        model = toy.build()
        stage: Any = model.get_submodule(toy.resolved.stage_path(model))
        if toy.name == "saai-base/vit":
            stage.insert(0, EncoderBlock(64, 4, 128))
        elif toy.name.startswith("generic"):
            conv = nn.Conv2d(12, 12, 3, padding=1)
            stage.extend([conv, nn.BatchNorm2d(12), nn.ReLU(inplace=True)])
        else:
            width = stage[-1].conv2.out_channels
            block: nn.Module = BasicBlock(width, width, 1)
            stage.append(KindBlock(block) if toy.name == "sgeil" else block)
        return model

    return dataclasses.replace(toy, build=build)


def variant(name: str, kind: str, **options: Any) -> Toy:
    """A row of the toy table, wrapped with other heads."""
    toy = deeper(TOYS[name]) if options.get("related_blocks") == "last" else TOYS[name]
    return dataclasses.replace(toy, name=f"{name}/{kind}", options=options)


# Whose stage takes maps, not tokens.
MAPS = [name for name in TOYS if not name.endswith("/vit")]
LIGHTER = {
    toy.name: toy
    for toy in (
        *(variant(name, "last", related_blocks="last") for name in TOYS),
        *(variant(name, "low-rank", related_blocks="low-rank") for name in MAPS),
    )
}
KINDS: dict[str, dict[str, Any]] = {
    "deep": {"related_stages": 2},
    "cross": {"related_fusion": "cross-attention"},
    "shared": {"related_heads": "shared", "related_labels": "identity"},
    "deep-shared": {"related_stages": 2, "related_heads": "shared", "related_labels": "identity"},
}
OTHERS = {
    toy.name: toy
    for toy in (
        *(variant(name, kind, **options) for name in TOYS for kind, options in KINDS.items()),
        variant("saai", "two-stream", related_labels="identity"),
        variant("generic", "two-stream", related_labels="identity"),
    )
}
VARIANTS = {**LIGHTER, **OTHERS}
