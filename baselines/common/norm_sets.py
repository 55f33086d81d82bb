"""Residual stages whose norms exist once per kind of image, on shared convolutions (SGEIL)."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from mixer_plugin.baselines.common.trunks import ResidualBlock

VISIBLE, INFRARED, SHAPE = 0, 1, 3  # the public code's numbers of the kinds
_SUFFIX = {VISIBLE: "", INFRARED: "_ir", SHAPE: "_shape"}  # of a norm's name


def add_norms(module: nn.Module, name: str, norm: Any, *kinds: int) -> None:
    """Gives a module further norms: the weight and bias of ``norm``, statistics of their own."""
    for kind in kinds:
        other = copy.deepcopy(norm)
        other.reset_running_stats()
        module.add_module(name + _SUFFIX[kind], other)


class KindStem(nn.Module):
    """A modality's first layers; body shapes share the convolution, but not the norm.

    Args:
        stem: taken over.
    """

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        for name, part in stem.named_children():
            self.add_module(name, part)
        add_norms(self, "bn1", self.bn1, SHAPE)

    def forward(self, x: Tensor, shape: bool = False) -> Tensor:
        """Images, or shapes of bodies, [B, 3, H, W] to a map [B, channels, h, w]."""
        net: Any = self
        norm = net.bn1_shape if shape else net.bn1
        return net.maxpool(net.relu(norm(net.conv1(x))))


class KindBlock(ResidualBlock):
    """A residual block with one set of norms per kind of image.

    Args:
        block: a basic or a bottleneck block, taken over; its norms are the visible images'.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, part)
        self.depth = block.depth
        for i in range(1, self.depth + 1):
            add_norms(self, f"bn{i}", block.get_submodule(f"bn{i}"), SHAPE, INFRARED)
        self.downsample = block.downsample
        if block.downsample is not None:
            add_norms(self, "dsbn", block.downsample[1], SHAPE, INFRARED)

    def forward(self, x: Tensor, modal: int = VISIBLE) -> Tensor:  # type: ignore[override]
        """[B, C, H, W] of images of one kind (0 visible, 1 infrared, 3 shape) to [B, D, h, w]."""
        return super().forward(x, _SUFFIX[modal])


class KindStage(nn.Sequential):
    """Blocks that are told the kind of the images: ``stage(x, modal)``."""

    def forward(self, x: Tensor, modal: int = VISIBLE) -> Tensor:
        """[B, C, H, W] of images of one kind (0 visible, 1 infrared, 3 shape) to [B, D, h, w]."""
        for block in self:
            x = block(x, modal)
        return x


class KindStages(KindStage):
    """The shared stages, with one set of norms per kind of image.

    Args:
        stages: taken over.
    """

    def __init__(self, stages: nn.Module) -> None:
        super().__init__()
        for name, stage in stages.named_children():
            self.add_module(name, KindStage(*(KindBlock(block) for block in stage.children())))
