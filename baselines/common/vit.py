"""Vision transformers as trunks: ViT-B/16, ViT-L/16 and a small one, up to a map of their patches.

Dosovitskiy et al. (ICLR 2021), in numbers equal to torchvision's ``VisionTransformer`` without
dropout and without its head. Layers have torchvision's names behind ``patches`` and ``layer1`` …
``layer4``, in which the encoder is cut: its last block and final norm are ``layer4``, what comes
before is shared out over the others. So ``layer4`` is to a network what it is of a ResNet: tokens
come in, and the map of the image's patches goes out. The class token takes part in attention up to
there and is left out of the map.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.torch_file import resized_positions

_EPSILON = 1e-6
_BLOCK = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.+)")
_EARLIER_NAMES = {"mlp.linear_1.": "mlp.0.", "mlp.linear_2.": "mlp.3."}
_POSITIONS = "patches.pos_embedding"


class _Shape(NamedTuple):
    patch: int  # height and width in pixels
    width: int
    depth: int
    heads: int
    hidden: int


VITS = {
    "vit-b16": _Shape(patch=16, width=768, depth=12, heads=12, hidden=3072),
    "vit-l16": _Shape(patch=16, width=1024, depth=24, heads=16, hidden=4096),
    "vit-small": _Shape(patch=8, width=64, depth=4, heads=4, hidden=128),
}


class Patches(nn.Module):
    """An image as tokens: the class token, then its patches row by row, with learned places.

    Args:
        patch: height and width of a patch in pixels.
        width: columns D of a token.
        grid: (rows, columns) of patches.
    """

    def __init__(self, patch: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embedding = nn.Parameter(torch.empty(1, 1 + grid[0] * grid[1], width))
        self.image_size = (grid[0] * patch, grid[1] * patch)
        # As torchvision draws them.
        nn.init.normal_(self.pos_embedding, std=0.02)
        nn.init.trunc_normal_(self.conv_proj.weight, std=(3 * patch**2) ** -0.5)
        nn.init.zeros_(cast(Tensor, self.conv_proj.bias))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to tokens [B, 1 + rows * columns, D].

        Raises:
            MixERValueError: for images of another size than the places are for.
        """
        if images.shape[2:] != self.image_size:
            (height, width), (own_height, own_width) = images.shape[2:], self.image_size
            raise MixERValueError(
                f"The trunk got images of {height}x{width}; its position embeddings are for "
                f"{own_height}x{own_width}. Resize the images, or build the model with their "
                "image_size=."
            )
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        token = self.class_token.expand(images.shape[0], -1, -1)
        return torch.cat([token, patches], dim=1) + self.pos_embedding


class SelfAttention(nn.Module):
    """Multi-head self-attention with the parameters of ``nn.MultiheadAttention``.

    That module has a path of its own in eval mode, whose last bits differ; this one has one path.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] to the same shape."""
        joint = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = joint.reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(found.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Attention, then two linear layers, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=_EPSILON)
        self.self_attention = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp = nn.Sequential()
        # torchvision's 2 is a dropout.
        for name, part in {
            "0": nn.Linear(width, hidden),
            "1": nn.GELU(),
            "3": nn.Linear(hidden, width),
        }.items():
            self.mlp.add_module(name, part)
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.normal_(part.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] to the same shape."""
        x = x + self.self_attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class PatchMap(nn.Module):
    """The tokens of the patches as a map; the class token is left out.

    Args:
        grid: (rows, columns) of patches.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, 1 + rows * columns, D] to [B, D, rows, columns]."""
        return tokens[:, 1:].transpose(1, 2).reshape(-1, tokens.shape[2], *self.grid)


class VisionTransformer(nn.Module):
    """A vision transformer up to its last map: the final norm's tokens of the patches.

    A network takes the mean of the map, not the class token: so pooling, part masks and related
    heads are the same behind every trunk.

    Args:
        name: ``vit-b16``, ``vit-l16`` or ``vit-small`` (for tests and demonstrations: patches of
            8x8 pixels, four blocks, 64 columns).
        image_size: (height, width) of the images in pixels; fixes the position embeddings.

    Attributes:
        channels: channels of the last map.
        grid: (rows, columns) of patches, which is the size of the last map.
        modality_attention: 0, there is none.

    Raises:
        MixERValueError: if the images are not a whole number of patches high and wide.
    """

    modality_attention = 0

    def __init__(self, name: str, image_size: tuple[int, int]) -> None:
        super().__init__()
        shape = VITS[name]
        height, width = image_size
        if height % shape.patch or width % shape.patch or min(image_size) < shape.patch:
            raise MixERValueError(
                f"image_size is {height}x{width}, and the trunk {name!r} cuts images into patches "
                f"of {shape.patch}x{shape.patch} pixels. Choose multiples of {shape.patch}."
            )
        self.channels = shape.width
        self.grid = (height // shape.patch, width // shape.patch)
        self.patches = Patches(shape.patch, shape.width, self.grid)
        for number, blocks in enumerate(_groups(shape.depth), start=1):
            stage = nn.Sequential(
                *(EncoderBlock(shape.width, shape.heads, shape.hidden) for _ in range(blocks))
            )
            self.add_module(f"layer{number}", stage)
        stage.extend([nn.LayerNorm(shape.width, eps=_EPSILON), PatchMap(self.grid)])

    def map_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the last map, for images of the one size that it takes."""
        return self.grid

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] to the last map [B, channels, rows, columns]."""
        net: Any = self
        return net.layer4(net.layer3(net.layer2(net.layer1(net.patches(x)))))


def own_names(state: Any) -> Any:
    """A state dict of torchvision's under the names of :class:`VisionTransformer`, without a head.

    The published files have names of the linear layers that torchvision itself no longer has
    (``mlp.linear_1``); both are read.

    Args:
        state: what ``VisionTransformer.state_dict()`` of torchvision gave; anything else is given
            back as it is. Names that no layer has stay, for the caller to find.
    """
    if not isinstance(state, Mapping) or "encoder.pos_embedding" not in state:
        return state
    blocks = filter(None, map(_BLOCK.fullmatch, state))
    groups = _groups(max((int(block[1]) for block in blocks), default=0) + 1)
    ends = list(accumulate(groups))
    found: dict[str, Any] = {}
    for key, value in state.items():
        if key.startswith("heads."):
            continue
        block = _BLOCK.fullmatch(key)
        if block:
            number, name = int(block[1]), block[2]
            stage = next(i for i, end in enumerate(ends) if number < end)
            for earlier, now in _EARLIER_NAMES.items():
                name = name.replace(earlier, now)
            key = f"layer{stage + 1}.{number - ends[stage] + groups[stage]}.{name}"
        elif key.startswith("encoder.ln."):
            key = f"layer4.{groups[3]}.{key.removeprefix('encoder.ln.')}"
        elif key.startswith(("conv_proj.", "class_token", "encoder.pos_embedding")):
            key = f"patches.{key.removeprefix('encoder.')}"
        found[key] = value
    return found


def with_positions(state: Any, net: nn.Module, where: str) -> Any:
    """A state dict whose position embeddings are resized to a network's grid of patches.

    Args:
        state: under the names of :class:`VisionTransformer`.
        net: gets it; of another class, the state dict is given back as it is.
        where: what messages call the file.

    Raises:
        MixERValueError: if they are of another grid that is no square.
    """
    if not isinstance(net, VisionTransformer) or _POSITIONS not in state:
        return state
    own, value = net.patches.pos_embedding, state[_POSITIONS]
    if value.dim() != 3 or value.shape == own.shape or value.shape[::2] != own.shape[::2]:
        return state
    name = f"pos_embedding of {where}"
    return {**state, _POSITIONS: resized_positions(name, value, own.shape[1], net.grid)}


def _groups(depth: int) -> list[int]:
    """Blocks of ``layer1`` … ``layer4``: the last one alone in ``layer4``, the others in thirds."""
    each, more = divmod(depth - 1, 3)
    return [each + (i < more) for i in range(3)] + [1]
