"""The forms of forward that the field's codebases have beside those of ``tests/networks.py``."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.baselines.common.trunks import Stages, Stem
from tests.networks import (
    CLASSES,
    LossInside,
    Named,
    Normalize,
    PlainTokens,
    TokenBlock,
    Tokens,
    TwoStreams,
)

DEPTH = 12  # blocks of a ViT-B


class Power(nn.Module):
    """A generalised mean with an exponent that trains; [B, D, 1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.clamp(min=1e-6).pow(self.p).mean((2, 3), keepdim=True)
        return mean.pow(1 / self.p)


class SpareLayer(LossInside):
    """MCJA's: the classifier that ImageNet's weights come with, which no forward uses."""

    def __init__(self) -> None:
        super().__init__(trunk="small")
        self.fc = nn.Linear(self.backbone.channels[-1], 10)


class FourStems(TwoStreams):
    """MSCMNet's: two stems per modality, whose maps are averaged in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.thermal_moduleA = Named("thermal", Stem("small"))
        self.visible_moduleA = Named("visible", Stem("small"))

    def forward(  # type: ignore[override]
        self, x1_1: Tensor, x1_2: Tensor, x2_1: Tensor, x2_2: Tensor, modal: int = 0
    ) -> tuple[Tensor, Tensor]:
        if modal == 0:
            visible = self.visible_module(x1_1), self.visible_moduleA(x1_2)
            x = torch.cat((*visible, self.thermal_module(x2_1), self.thermal_moduleA(x2_2)))
        elif modal == 1:
            x = (self.visible_module(x1_1) + self.visible_moduleA(x1_2)) / 2
        else:
            x = (self.thermal_module(x2_1) + self.thermal_moduleA(x2_2)) / 2
        pooled, feature = self.shared(x)
        if self.training:
            return pooled, self.classifier(feature)
        return self.l2norm(pooled), self.l2norm(feature)


class SevenOutputs(TwoStreams):
    """USL-VI-ReID's: pseudo-labels go in and come out; evaluation returns one tensor."""

    def forward(  # type: ignore[override]
        self, x1: Tensor, x2: Tensor, modal: int = 0, label_1: Any = None, label_2: Any = None
    ) -> Any:
        if modal == 0:
            x = torch.cat((self.visible_module(x1), self.thermal_module(x2)))
            torch.cat((label_1, label_2), -1)  # as published: nothing comes of it
        else:
            x = self.visible_module(x1) if modal == 1 else self.thermal_module(x2)
        pooled, feature = self.shared(x)
        if not self.training:
            return self.l2norm(feature)
        n = len(x1)
        return feature, feature[:n], feature[n:], label_1, label_2, pooled[:n], pooled[n:]


class TwoPatchEmbeddings(nn.Module):
    """SDCL's: the backbone embeds each modality's patches, and hands the labels on."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Tokens((32, 16), 16, DEPTH - 1)
        self.base.patch_embed2 = copy.deepcopy(self.base.patch_embed)
        self.bottleneck, self.bottlenecks = nn.BatchNorm1d(16), nn.BatchNorm1d(16)
        self.b1 = nn.Sequential(TokenBlock(16), nn.LayerNorm(16))
        self.b2 = copy.deepcopy(self.b1)

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        modal: int = 0,
        label_1: Any = None,
        label_2: Any = None,
        index_rgb: Any = None,
    ) -> Any:
        tokens, label_1, label_2 = self.embed(x1, x2, modal, label_1, label_2)
        feature = self.bottleneck(self.b1(tokens)[:, 0])
        parts = self.bottlenecks(self.b2(torch.cat((tokens[:, :1], tokens[:, 2:]), 1))[:, 0])
        if not self.training:
            return feature, parts
        n = len(x1)
        return feature, feature[:n], feature[n:], parts, label_1, label_2, index_rgb

    def embed(self, x1: Tensor, x2: Tensor, modal: int, *labels: Any) -> tuple[Any, ...]:
        base: Any = self.base
        given = {0: (x1, x2), 1: (x1, None), 2: (None, x2)}[modal]
        both = zip((base.patch_embed, base.patch_embed2), given, strict=True)
        x = torch.cat([embed(images) for embed, images in both if images is not None])
        patches = x.flatten(2).transpose(1, 2)
        tokens = torch.cat((base.cls_token.expand(len(x), -1, -1), patches), 1) + base.pos_embed
        for block in base.blocks:
            tokens = block(tokens)
        return tokens, *labels


class TwoEncoders(nn.Module):
    """wsl_vireid's: images of either modality, or of both; no classifier inside."""

    def __init__(self) -> None:
        super().__init__()
        stages = Stages("small")
        self.image_encoder1, self.image_encoder2 = Stem("small"), Stem("small")
        self.image_encoder = nn.Sequential(*stages.children())
        self.width = stages.channels[-1]
        self.GAP, self.BN = Power(), nn.BatchNorm1d(self.width)

    def forward(
        self, x1: Tensor | None = None, x2: Tensor | None = None, label: Tensor | None = None
    ) -> Any:
        pooled = self.GAP(self.encode(x1, x2)).flatten(1)
        return pooled, self.BN(pooled)

    def encode(self, x1: Tensor | None, x2: Tensor | None) -> Tensor:
        both = ((self.image_encoder1, x1), (self.image_encoder2, x2))
        return self.image_encoder(torch.cat([stem(x) for stem, x in both if x is not None]))


class Classified(nn.Module):
    """CSDN's classifier: it pools, norms and classifies."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.GEM, self.BN = Power(), nn.BatchNorm1d(width)
        self.classifier = nn.Linear(width, CLASSES, bias=False)
        self.l2_norm = Normalize()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = self.GEM(x).flatten(1)
        feature = self.BN(pooled)
        return pooled, self.classifier(feature), self.l2_norm(feature)


class ThreeModes(TwoEncoders):
    """CSDN's: the same forward makes features of images, of prompts, and of both prompts."""

    def __init__(self) -> None:
        super().__init__()
        del self.GAP, self.BN
        self.classifier = Classified(self.width)
        self.prompts = nn.Embedding(CLASSES, self.width)

    def forward(  # type: ignore[override]
        self,
        x1: Tensor | None = None,
        x2: Tensor | None = None,
        label: Tensor | None = None,
        get_text: bool = False,
        get_fusion_text: bool = False,
    ) -> Any:
        if get_text or get_fusion_text:
            return self.prompts(label) * (1 + get_fusion_text)
        pooled, logits, feature = self.classifier(self.encode(x1, x2))
        return ([pooled], [logits]) if self.training else feature


class NoModule:
    """VIReid's: an object that holds the network, three classifiers and the optimizer."""

    def __init__(self) -> None:
        self.model = TwoEncoders()
        self.classifier1, self.classifier2, self.classifier3 = (
            nn.Linear(self.model.width, CLASSES) for _ in range(3)
        )
        self.optimizer = torch.optim.Adam(self.model.parameters())


class Listed(PlainTokens):
    """UAD's: a list of modalities in training; evaluation takes one, and stops before the neck."""

    def __init__(self) -> None:
        super().__init__(depth=DEPTH)

    def forward(  # type: ignore[override]
        self, x: Any = None, label: Any = None, camids: Any = None, mode: int = 0
    ) -> Any:
        if mode:
            found = self.base(x)
            self.bottleneck(found)  # as published: it runs, and nothing comes of it
            return found
        found = self.base(torch.cat(list(x)))
        feature = self.bottleneck(found)
        return self.classifier(feature), found, feature


class AllTokens(Tokens):
    """Returns every token of several class tokens."""

    def __init__(self, classes: int) -> None:
        super().__init__((32, 16), 16, DEPTH)
        self.cls_token = nn.Parameter(torch.randn(1, classes, 16))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 8 + classes, 16))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), patches), 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class SixTokens(nn.Module):
    """AT-ReID's: a class token, a neck and a classifier for each of six tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.base = AllTokens(6)
        self.bottleneck = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(6))
        self.classifier = nn.ModuleList(nn.Linear(16, CLASSES, bias=False) for _ in range(6))

    def forward(self, x: Tensor) -> Any:
        tokens = self.base(x)[:, :6].unbind(1)
        features = [neck(token) for neck, token in zip(self.bottleneck, tokens, strict=True)]
        if not self.training:
            return features
        return list(tokens), [c(f) for c, f in zip(self.classifier, features, strict=True)]


class TokensFirst(nn.Module):
    """MP-ReID's: CLIP's transformer, which takes [T, B, D], and a forward of labels too."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = Tokens((32, 16), 16, DEPTH)
        self.image_encoder.transformer = nn.Module()
        self.image_encoder.transformer.resblocks = self.image_encoder.blocks
        self.image_encoder.ln_post = self.image_encoder.norm
        for block in self.image_encoder.blocks:
            block.attn.batch_first = False
        del self.image_encoder.blocks, self.image_encoder.norm
        self.proj = nn.Parameter(torch.randn(16, 8))
        self.bottleneck = nn.BatchNorm1d(16)
        self.classifier = nn.Linear(16, CLASSES, bias=False)
        self.prompts = nn.Embedding(CLASSES, 8)

    def forward(
        self,
        x: Tensor | None = None,
        label: Tensor | None = None,
        cam_label: Any = None,
        view_label: Any = None,
        get_text: bool = False,
    ) -> Any:
        if get_text:
            return self.prompts(label)
        net: Any = self.image_encoder
        assert x is not None
        patches = net.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((net.cls_token.expand(len(x), -1, -1), patches), 1) + net.pos_embed
        x = x.permute(1, 0, 2)
        for block in net.transformer.resblocks:
            x = block(x)
        found = net.ln_post(x.permute(1, 0, 2))[:, 0]
        feature, projected = self.bottleneck(found), found @ self.proj
        if not self.training:
            return torch.cat((feature, projected), 1)
        return [self.classifier(feature)], [found, feature], projected, x.detach()


class Scenes(PlainTokens):
    """VersReID's: prompts of a scene, which evaluation names too."""

    def __init__(self) -> None:
        super().__init__(depth=DEPTH)
        self.scenes = nn.Embedding(3, 16)

    def forward(  # type: ignore[override]
        self, x: Tensor, label: Any = None, cam_label: Any = None, dataset_label: Any = None
    ) -> Any:
        prompt = self.scenes(torch.as_tensor(dataset_label))
        base: Any = self.base
        patches = base.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((base.cls_token.expand(len(x), -1, -1), patches), 1) + base.pos_embed
        x = torch.cat((x, prompt.expand(len(x), 1, -1)), 1)
        for block in base.blocks:
            x = block(x)
        found = base.norm(x)[:, 0]
        feature = self.bottleneck(found)
        return (found, self.classifier(feature)) if self.training else feature


class EMA(nn.Module):
    """VersReID's wrapper: the network and its moving average."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.ema_model = copy.deepcopy(model).eval().requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs) if self.training else None

    def ema_update(self) -> None:
        pairs = zip(self.ema_model.parameters(), self.model.parameters(), strict=True)
        for old, new in pairs:
            old.data = 0.5 * old.data + 0.5 * new.data


class Clips(nn.Module):
    """BUPTCampus's: [B, T, C, H, W] of either modality, frames averaged behind the trunk.

    An image is a clip of one frame.
    """

    def __init__(self) -> None:
        super().__init__()
        stages = Stages("small")
        width = stages.channels[-1]
        self.rgb_module, self.ir_module = Stem("small"), Stem("small")
        self.shared_module = Named("backbone", stages)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.bottleneck, self.l2norm = Named("bn", nn.BatchNorm1d(width)), Normalize()
        self.classifier = Named("fc", nn.Linear(width, CLASSES, bias=False))

    def forward(
        self, x_rgb: Tensor | None = None, x_ir: Tensor | None = None, pids: Tensor | None = None
    ) -> Any:
        both = [(self.rgb_module, x_rgb), (self.ir_module, x_ir)]
        given = [(stem, x if x.dim() == 5 else x[:, None]) for stem, x in both if x is not None]
        frames = given[0][1].shape[1]
        maps = torch.cat([stem(x.flatten(0, 1)) for stem, x in given])
        found = self.avgpool(self.shared_module(maps)).flatten(1)
        found = found.unflatten(0, (-1, frames)).mean(1)
        feature = self.bottleneck(found)
        if not self.training:
            return self.l2norm(feature)
        assert pids is not None
        return found, self.classifier(feature), pids.repeat(2)
