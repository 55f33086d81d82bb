"""The toy table: one small model per adapter. A new adapter is one source file and one row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin import mixer_loss
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.baselines import create_baseline

CLASSES = 6
IMAGE = (32, 16)


@dataclass(frozen=True)
class Batch:
    images: Tensor
    labels: Tensor
    modality: Tensor

    @property
    def cams(self) -> Tensor:
        return torch.where(self.modality == 1, 3, 1)


def make_batch(seed: int | None = 0, *, p: int = 3, k: int = 2, modalities=(1, 0)) -> Batch:
    """p identities x k rows per modality, identity by identity; seed None draws globally."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    labels = torch.randperm(CLASSES, generator=generator)[:p].repeat_interleave(k * len(modalities))
    modality = torch.tensor(modalities).repeat(p * k)
    return Batch(torch.randn(len(labels), 3, *IMAGE, generator=generator), labels, modality)


class PlainNet(nn.Module):
    """A script-family network: labels stay in the loop."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.drop = nn.Dropout(dropout)
        self.layer4 = nn.Sequential(
            nn.Conv2d(8, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.Dropout(dropout),
            nn.ReLU(inplace=True),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.neck = nn.BatchNorm1d(12)
        self.fc = nn.Linear(12, CLASSES, bias=False)

    def forward(self, images: Tensor, modality: Tensor | None = None) -> Any:
        feature = self.neck(self.avgpool(self.layer4(self.drop(self.stem(images)))).flatten(1))
        return (feature, self.fc(feature)) if self.training else feature


@dataclass(frozen=True)
class Toy:
    """How to build, train and evaluate one small model, as its own codebase would."""

    name: str
    build: Callable[[], nn.Module]
    forward: Callable[[nn.Module, Batch], Any]
    loss: Callable[[Any, Batch], Tensor]
    evaluate: Callable[[nn.Module, Batch], Tensor]
    adapter: Callable[[], Any] = field(default=lambda: "auto")

    @property
    def in_loop(self) -> bool:
        return self.name.startswith("generic")

    def step_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """One training forward with the loop's loss, MixER's included where it is attached."""
        loss = self.loss(self.forward(model, batch), batch)
        wrapped = hasattr(getattr(model, "module", model), "mixer")
        return loss + mixer_loss(model, batch.labels) if wrapped and self.in_loop else loss


def _saai(name: str, **options: Any) -> Toy:
    return Toy(
        name=name,
        build=lambda: create_baseline(
            name.split("/")[0], CLASSES, trunk="small", image_size=IMAGE, **options
        ),
        forward=lambda m, b: m(b.images, b.labels, cam_ids=b.cams, epoch=1),
        loss=lambda out, b: out[0],
        evaluate=lambda m, b: m(b.images, cam_ids=b.cams),
    )


def _generic(name: str, dropout: float = 0.0, neck: str | None = "neck") -> Toy:
    return Toy(
        name=name,
        build=lambda: PlainNet(dropout),
        forward=lambda m, b: m(b.images, b.modality),
        loss=lambda out, b: F.cross_entropy(out[1], b.labels),
        evaluate=lambda m, b: m(b.images, b.modality),
        adapter=lambda: GenericAdapter(
            "layer4", "avgpool", neck=neck, classifier="fc", modality="modality"
        ),
    )


TOYS = {
    toy.name: toy
    for toy in (
        _saai("saai"),
        _saai("saai-base"),
        _saai("saai-base/attention", modality_attention=2),
        _generic("generic"),
        _generic("generic/dropout", dropout=0.2, neck=None),
    )
}
