"""Small networks of our own whose forwards have the forms that codebases of the field have."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.trunks import Stages, Stem

CLASSES = 6


def gem(x: Tensor, exponent: float = 3.0) -> Tensor:
    """As AGW-family forwards pool: inline, by a generalised mean."""
    return ((x.flatten(2) ** exponent).mean(-1) + 1e-12) ** (1 / exponent)


class Normalize(nn.Module):
    """L2-normalised rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.div(x.pow(2).sum(1, keepdim=True).pow(0.5))


class Gate(nn.Module):
    """What stands between blocks: it starts as the identity, as non-local blocks do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.W(x)


class Named(nn.Module):
    """A module that holds one other under a name, and runs it."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        (inner,) = self.children()
        return inner(x)


class TwoStreams(nn.Module):
    """AGW's form: ``(x1, x2, modal)``, blocks called one by one, pooling in the forward."""

    def __init__(self, classes: int = CLASSES, trunk: str = "small", gm_pool: str = "on") -> None:
        super().__init__()
        stages = Stages(trunk)
        width = stages.channels[-1]
        self.thermal_module = Named("thermal", Stem(trunk))
        self.visible_module = Named("visible", Stem(trunk))
        self.base_resnet = Named("base", stages)
        self.NL_3 = nn.ModuleList([Gate(stages.channels[2])])
        self.l2norm = Normalize()
        self.bottleneck = nn.BatchNorm1d(width)
        self.bottleneck.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, classes, bias=False)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.gm_pool = gm_pool

    def forward(self, x1: Tensor, x2: Tensor, modal: int = 0) -> tuple[Tensor, Tensor]:
        if modal == 0:
            x = torch.cat((self.visible_module(x1), self.thermal_module(x2)), 0)
        else:
            x = self.visible_module(x1) if modal == 1 else self.thermal_module(x2)
        pooled, feature = self.shared(x)
        if self.training:
            return pooled, self.classifier(feature)
        return self.l2norm(pooled), self.l2norm(feature)

    def shared(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Behind the stems: the feature before and after the neck."""
        base: Any = self.base_resnet.base
        for layer in (base.layer1, base.layer2, base.layer3):
            for block in layer:
                x = block(x)
        x = self.NL_3[0](x)
        for block in base.layer4:
            x = block(x)
        pooled = gem(x) if self.gm_pool == "on" else self.avgpool(x).flatten(1)
        return pooled, self.bottleneck(pooled)


class LossInside(nn.Module):
    """MCJA's form: ``(inputs, labels, cam_ids=…)`` returns (loss, metrics), in eval the feature."""

    def __init__(self, classes: int = CLASSES, trunk: str = "small-deep") -> None:
        super().__init__()
        self.backbone = Stages(trunk, stem=True)
        width = self.backbone.channels[-1]
        self.bn_neck = nn.BatchNorm1d(width)
        self.bn_neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, classes, bias=False)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
        x = inputs
        for name, module in self.backbone.named_children():
            for block in module if name.startswith("layer") else [module]:
                x = block(x)
        feature = self.bn_neck(gem(x))
        if not self.training:
            return feature
        cams = kwargs["cam_ids"]
        infrared = (cams == 3) + (cams == 6)
        gap = feature[infrared].mean(0) - feature[~infrared].mean(0)
        loss = F.cross_entropy(self.classifier(feature), labels) + gap.square().mean()
        return loss, {"gap": gap.square().mean().detach()}


class TokenBlock(nn.Module):
    """A transformer block with pre-norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Tokens(nn.Module):
    """A transformer for one size of images; its blocks are a list that its forward runs."""

    def __init__(self, size: tuple[int, int], width: int, depth: int) -> None:
        super().__init__()
        self.size = size
        self.patch_embed = nn.Conv2d(3, width, 8, stride=8)
        count = (size[0] // 8) * (size[1] // 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, count + 1, width))
        self.blocks = nn.ModuleList([TokenBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), patches), 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class PlainTokens(nn.Module):
    """PMT's form: ``(x)``; the modality is known to the loop alone."""

    def __init__(
        self, classes: int = CLASSES, size: tuple[int, int] = (32, 16), depth: int = 3
    ) -> None:
        super().__init__()
        self.base = Tokens(size, 16, depth)
        self.classifier = nn.Linear(16, classes, bias=False)
        self.bottleneck = nn.BatchNorm1d(16)
        self.bottleneck.bias.requires_grad_(False)
        self.l2norm = Normalize()

    def forward(self, x: Tensor) -> Any:
        features = self.base(x)
        feature = self.bottleneck(features)
        return (self.classifier(feature), features) if self.training else self.l2norm(feature)
