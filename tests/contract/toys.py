"""The toy table: one small model per adapter. A new adapter is one source file and one row here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin import mixer_loss
from mixer_plugin.adapters import Adapter, GenericAdapter, resolve_adapter
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Batch, Loop, Step

CLASSES = 6
IMAGE = (32, 16)


def make_batch(
    seed: int | None = 0, *, p: int = 3, k: int = 2, modalities=(1, 0), rows: str = "grouped"
) -> Batch:
    """p identities x k rows per modality in a loop's row order; seed None draws globally."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    labels = torch.randperm(CLASSES, generator=generator)[:p].repeat_interleave(k * len(modalities))
    modality = torch.tensor(modalities).repeat(p * k)
    if rows == "blocks":
        order = modality.argsort(stable=True)
        labels, modality = labels[order], modality[order]
    images, shapes = torch.randn(2, len(labels), 3, *IMAGE, generator=generator)
    return Batch(images, labels, modality, torch.where(modality == 1, 3, 1), shapes)


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


class PlainLoop(Loop):
    """Cross-entropy on the second output."""

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        outputs = net(batch.images, batch.modality)
        return Step(outputs, F.cross_entropy(outputs[1], batch.labels), {}, batch.labels)


def _forward_alone(model: nn.Module, batch: Batch, loop: Loop) -> Tensor:
    return loop(model, batch).loss


@dataclass(frozen=True)
class Toy:
    """How to build, train and evaluate one small model, as its own codebase would.

    Attributes:
        name: of the row.
        build: makes the bare model.
        look: one forward outside training over rows of both modalities: features [B, ·].
        loop: makes the training loop.
        adapter: what ``wrap_with_mixer`` is given.
        alone: the base's loss on a batch of one modality, or None where the base cannot have one.
        mirrored: evaluation also looks at mirrored images.
        erased: makes of ``mixer_features(…).erased`` what ``look`` returns; None: not comparable.
        stage_calls: times the stage runs in a training forward.
    """

    name: str
    build: Callable[[], nn.Module]
    look: Callable[[nn.Module, Batch], Tensor]
    loop: Callable[[], Loop] = PlainLoop
    adapter: Callable[[], Any] = field(default=lambda: "auto")
    alone: Callable[[nn.Module, Batch, Loop], Tensor] | None = _forward_alone
    mirrored: bool = False
    erased: Callable[[Tensor], Tensor] | None = field(default=lambda erased: erased)
    stage_calls: int = 1

    @functools.cached_property
    def resolved(self) -> Adapter:
        with torch.random.fork_rng():
            return resolve_adapter(self.build(), self.adapter())

    @property
    def in_loop(self) -> bool:
        return self.resolved.adds_loss() == "loop"

    def batch(self, seed: int | None = 0, **options: Any) -> Batch:
        return make_batch(seed, rows=self.loop().rows, **options)

    def step(self, model: nn.Module, batch: Batch, loop: Loop | None = None) -> Step:
        """One training forward of the codebase's loop."""
        if loop is None:
            loop = self.loop()
            loop.start_epoch(model, 0)
        return loop(model, batch)

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        return self.step(model, batch).outputs

    def step_loss(self, model: nn.Module, batch: Batch, loop: Loop | None = None) -> Tensor:
        """The loop's loss, MixER's included where it is attached."""
        step = self.step(model, batch, loop)
        wrapped = hasattr(getattr(model, "module", model), "mixer")
        return step.loss + mixer_loss(model, step.labels) if wrapped and self.in_loop else step.loss

    def evaluate(self, model: nn.Module, batch: Batch) -> Tensor:
        """Retrieval features as the codebase's own evaluation computes them."""
        if self.name.startswith("generic"):
            return self.look(model, batch)
        return self.resolved.embed(model, batch.images, batch.modality)


def _ignite(name: str, **options: Any) -> Toy:
    baseline = name.split("/")[0]
    if baseline.startswith("saai"):
        options["image_size"] = IMAGE
    return Toy(
        name=name,
        build=lambda: create_baseline(baseline, CLASSES, trunk="small", **options),
        look=lambda m, b: m(b.images, cam_ids=b.cams),
        loop=lambda: create_loop(baseline),
    )


def _script(name: str, look: Callable[[nn.Module, Tensor, Tensor], Tensor], **settings: Any) -> Toy:
    """``look``: the retrieval output of one forward on visible and infrared images."""
    baseline = name.split("/")[0]
    options = settings.pop("options", {})
    loop = type(create_loop(baseline))
    return Toy(
        name=name,
        build=lambda: create_baseline(baseline, CLASSES, trunk="small", **options),
        look=lambda m, b: look(m, b.images[b.modality == 0], b.images[b.modality == 1]),
        **{"loop": loop, **settings},
    )


def _generic(name: str, dropout: float = 0.0, neck: str | None = "neck") -> Toy:
    return Toy(
        name=name,
        build=lambda: PlainNet(dropout),
        look=lambda m, b: m(b.images, b.modality),
        adapter=lambda: GenericAdapter(
            "layer4", "avgpool", neck=neck, classifier="fc", modality="modality"
        ),
        # The dropout row's adapter names no neck on purpose.
        erased=(lambda erased: erased) if neck else None,
    )


def _ddag_alone(model: nn.Module, batch: Batch, loop: Loop) -> Tensor:
    graph = torch.ones(len(batch.labels), len(batch.labels))
    outputs = model(batch.images, batch.images, graph, 1 + int(batch.modality[0]))
    return F.cross_entropy(outputs[1], batch.labels) + 0 * sum(o.sum() for o in outputs)


TOYS = {
    toy.name: toy
    for toy in (
        _ignite("saai"),
        _ignite("saai-base"),
        _ignite("saai-base/attention", modality_attention=2),
        _script(
            "ddag",
            lambda net, v, i: net(v, i, 0)[1],
            options={"low_dim": 8},
            alone=_ddag_alone,
            erased=F.normalize,
        ),
        _generic("generic"),
        _generic("generic/dropout", dropout=0.2, neck=None),
    )
}
