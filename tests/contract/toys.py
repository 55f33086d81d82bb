"""The toy table: one small model per adapter. A new adapter is one source file and one row here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin import mixer_loss
from mixer_plugin.adapters import Adapter, GenericAdapter, resolve_adapter
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Batch, Loop, ScriptLoop, Step, halves
from mixer_plugin.baselines.sgeil import SGEILLoop
from tests.networks import CLASSES, Normalize, TwoStreams

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


class Block(nn.Module):
    """A transformer block with pre-norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class PlainViT(nn.Module):
    """A vision transformer with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.blocks = nn.Sequential(Block(12), Block(12))
        self.norm = nn.LayerNorm(12)
        self.neck = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, images: Tensor, modality: Tensor | None = None) -> Any:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1)
        feature = self.neck(self.norm(self.blocks(tokens))[:, 0])
        return (feature, self.head(feature)) if self.training else feature


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
        options: of ``MixERConfig`` that it is wrapped with, whatever a test asks for beside.
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
    options: Mapping[str, Any] = field(default_factory=dict)

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


def _ignite(name: str, alone: Any = _forward_alone, **options: Any) -> Toy:
    baseline = name.split("/")[0]
    if baseline.startswith("saai"):
        options["image_size"] = IMAGE
    return Toy(
        name=name,
        build=lambda: create_baseline(baseline, CLASSES, **{"trunk": "small", **options}),
        look=lambda m, b: m(b.images, cam_ids=b.cams),
        loop=lambda: create_loop(baseline),
        alone=alone,
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
            "layer4",
            "avgpool",
            neck=neck,
            classifier="fc",
            modality="modality",
            earlier=["stem"],
        ),
        # The dropout row's adapter names no neck on purpose.
        erased=(lambda erased: erased) if neck else None,
    )


def _vit() -> Toy:
    return Toy(
        name="generic/vit",
        build=PlainViT,
        look=lambda m, b: m(b.images, b.modality),
        adapter=lambda: GenericAdapter(("blocks.1", "norm"), neck="neck", modality="modality"),
    )


def _ddag_alone(model: nn.Module, batch: Batch, loop: Loop) -> Tensor:
    graph = torch.ones(len(batch.labels), len(batch.labels))
    outputs = model(batch.images, batch.images, graph, 1 + int(batch.modality[0]))
    return F.cross_entropy(outputs[1], batch.labels) + 0 * sum(o.sum() for o in outputs)


def _deen_alone(model: nn.Module, batch: Batch, loop: Loop) -> Tensor:
    outputs = model(batch.images, batch.images, 1 + int(batch.modality[0]))
    return F.cross_entropy(outputs[1], batch.labels.repeat(3))


def _sgeil_alone(model: nn.Module, batch: Batch, loop: Loop) -> Tensor:
    outputs = model(batch.images, batch.images, mode=1 + int(batch.modality[0]))
    return F.cross_entropy(model.classifier(outputs[1]), batch.labels)


class TwoStreamLoop(ScriptLoop):
    """AGW's: cross-entropy, and a loss of the feature before the neck."""

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        outputs = net(*halves(batch))
        loss = F.cross_entropy(outputs[1], batch.labels) + outputs[0].square().mean()
        return Step(outputs, loss, {}, batch.labels)


def _agw_alone(model: nn.Module, batch: Batch, loop: Loop) -> Tensor:
    outputs = model(batch.images, batch.images, 1 + int(batch.modality[0]))
    return F.cross_entropy(outputs[1], batch.labels)


def _agw(name: str, **options: Any) -> Toy:
    return Toy(
        name,
        lambda: TwoStreams(**options),
        look=lambda net, b: net(b.images[b.modality == 0], b.images[b.modality == 1])[1],
        loop=TwoStreamLoop,
        alone=_agw_alone,
        erased=Normalize(),
    )


def _columns(rows: Tensor, blocks: int = 3) -> Tensor:
    return torch.cat(rows.chunk(blocks), dim=1)


def _normalised_columns(erased: Tensor, blocks: int = 3) -> Tensor:
    return torch.cat([F.normalize(block) for block in erased.chunk(blocks, dim=1)], dim=1)


def _deen(name: str, **options: Any) -> Toy:
    return _script(
        name,
        lambda net, v, i: _columns(net(v, i)[1]),
        options=options,
        alone=_deen_alone,
        mirrored=True,
        erased=_normalised_columns,
    )


TOYS = {
    toy.name: toy
    for toy in (
        _ignite("saai"),
        _ignite("saai-base"),
        _ignite("saai-base/attention", modality_attention=2),
        _ignite("saai-base/vit", trunk="vit-small"),
        _ignite("mpanet"),
        _ignite("mpanet/plain", modality_attention=0, parts=0),
        _ignite("idkl", alone=None),
        _script(
            "ddag",
            lambda net, v, i: net(v, i, 0)[1],
            options={"low_dim": 8},
            alone=_ddag_alone,
            erased=F.normalize,
        ),
        _deen("deen"),
        _deen("deen/regdb", dataset="regdb"),
        _script(
            "sgeil",
            lambda net, v, i: net(v, i)[
                0
            ],  # of both modalities it returns no feature after the neck
            loop=lambda: SGEILLoop(mix=0.0),
            alone=_sgeil_alone,
            mirrored=True,
            erased=None,
            stage_calls=6,  # the hooks of a network are copied into its twin
        ),
        _agw("agw"),
        _agw("agw/average", gm_pool="off"),
        _generic("generic"),
        _generic("generic/dropout", dropout=0.2, neck=None),
        _vit(),
    )
}
