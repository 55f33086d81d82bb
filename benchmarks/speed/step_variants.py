"""Three networks of the same weights whose training steps are compared: bare, floor and MixER.

The floor is what the method cannot do without: the network as it is, and one clone per modality of
what MixER clones (the stage, or several), run forward and backward on that modality's rows of the
detached input; of a shared head one clone, on all rows. It has no loss but a number to go backward
from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.adapters.stages import stage_parts
from mixer_plugin.adapters.thin import thinned
from mixer_plugin.attach import mixer_parameters, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop, options_of
from mixer_plugin.baselines.loops import Batch, Loop, Step
from mixer_plugin.benchmarks.training.precision import (
    OptimPart,
    autocast,
    backward,
    make_parts,
    step_parts,
    zero_grads,
)
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.steps import FrozenBase, WithMixER, seed_step
from mixer_plugin.config import MixERConfig
from mixer_plugin.forward.taps import add_tap, close_taps, collect_taps, open_taps
from mixer_plugin.heads import clone_stage, parts_of

VARIANTS = ("bare", "floor", "mixer")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network with its public recipe's options and optimizer, and how it is trained."""

    baseline: str
    mode: str  # of MixER
    p: int  # identities per batch
    k: int  # images per identity and modality
    size: tuple[int, int]  # height and width of the images
    trunk: str = "resnet50"
    device: str = "cpu"
    precision: str = "fp32"  # or bf16, by autocast
    channels_last: bool = True  # weights and images
    classes: int = 395
    mixer: MixERConfig = field(default_factory=MixERConfig)

    @property
    def recipe(self) -> PublicRecipe:
        """The public recipe, with this batch."""
        return PublicRecipe(dataset="sysu", identities=self.p, images=self.k)

    @property
    def network(self) -> dict[str, Any]:
        """Options of ``create_baseline``."""
        options = {"trunk": self.trunk, **self.recipe.network(self.baseline)}
        if "image_size" in options_of(self.baseline):
            options["image_size"] = self.size
        return options


class WithFloor(WithMixER):
    """A codebase's loop around a network with clones of its stages (:func:`add_clones`)."""

    def forward(self, net: Any, batch: Batch) -> Step:
        """The codebase's step; its loss plus a number made of the clones' maps."""
        adapter, clones = resolve_adapter(net), net.clones
        taps = {**adapter.taps(net), **clones.taps}
        open_taps(net, taps)
        try:
            step = self.inner(net, batch)
            seen = adapter.read(collect_taps(net, taps), taps)["stage_input"].detach()
        finally:
            close_taps(net, taps)
        loss = step.loss
        for modality, clone in enumerate(clones.stages):
            x = seen if len(clones.stages) == 1 else seen[batch.modality == modality]
            for part in parts_of(clone):
                x = adapter.run_stage(part, x, modality)
            loss = loss + x.mean(dim=(2, 3)).float().square().mean()
        return Step(step.outputs, loss, step.terms, step.labels)


class Clones(nn.Module):
    """What MixER clones of a network, and the taps it reads in the place of the adapter's."""

    def __init__(self, net: nn.Module, config: MixERConfig) -> None:
        super().__init__()
        adapter = resolve_adapter(net)
        stage, self.taps = stage_parts(adapter, net, config)
        stage = thinned(stage, config.related_width)
        self.stages = nn.ModuleList(clone_stage(stage) for _ in config.head_names)
        for modality, clone in enumerate(self.stages):
            for part in parts_of(clone):
                adapter.prepare_clone(part, modality)


def add_clones(net: nn.Module, config: MixERConfig) -> None:
    """Adds to a network, as ``net.clones``, what MixER clones of it, and the taps MixER reads."""
    clones = Clones(net, config)
    for tap in dict.fromkeys({**resolve_adapter(net).taps(net), **clones.taps}.values()):
        add_tap(net, tap)
    net.add_module("clones", clones)


@dataclass
class Variant:
    """A network in training: the same batch in every step, ``steps`` of them done."""

    case: Case
    net: nn.Module
    loop: Loop
    batch: Batch
    parts: list[OptimPart]
    clip: float | None  # largest gradient norm
    steps: int = 0

    def step(self) -> Tensor:
        """One whole training step, as the trainer does it; returns its loss, detached."""
        seed_step(0, self.steps)  # dropout and mixing take the same course in every variant
        zero_grads(self.parts)
        with autocast(self.case.precision, self.case.device):
            loss = self.loop(self.net, self.batch).loss
        backward(self.parts, loss)
        step_parts(self.parts, self.clip)
        self.loop.stepped(self.net)
        self.steps += 1
        return loss.detach()


def make_variant(case: Case, kind: str) -> Variant:
    """One of :data:`VARIANTS` of a case, of weights and images that depend on the case alone.

    Raises:
        MixERError: for an unknown network, option or mode.
    """
    torch.manual_seed(0)
    net = create_baseline(case.baseline, case.classes, **case.network)
    loop = create_loop(case.baseline)
    batch = make_batch(case, loop)
    if kind == "floor":
        add_clones(net, case.mixer)
        loop = WithFloor(loop)
    elif kind == "mixer":
        wrap_with_mixer(net, case.mode, config=case.mixer)
        loop = FrozenBase(loop) if case.mixer.frozen_base else WithMixER(loop)
    net.to(case.device).train()
    if case.channels_last:
        net.to(memory_format=torch.channels_last)
    loop.to(case.device)
    loop.start_epoch(net, 0)
    plan = case.recipe.plan(case.baseline, batch.labels.cpu(), batch.modality.cpu())
    heads_alone = kind == "mixer" and case.mixer.frozen_base
    trained = mixer_parameters(net) if heads_alone else list(net.parameters())
    trained = [p for p in trained if p.requires_grad]
    parts = make_parts(net, trained, plan, case.precision, case.device)
    for part in parts:
        plan.set_rates(part.optimizer, 0)
    return Variant(case, net, loop, batch, parts, plan.clip)


def make_batch(case: Case, loop: Loop) -> Batch:
    """Random images in the row order of a loop."""
    p, k = case.p, case.k
    if loop.rows == "blocks":
        labels = torch.arange(p).repeat_interleave(k).repeat(2)
        modality = torch.arange(2).repeat_interleave(p * k)
    else:
        labels = torch.arange(p).repeat_interleave(2 * k)
        modality = torch.tensor([1, 0]).repeat(p * k)
    generator = torch.Generator().manual_seed(0)

    def images() -> Tensor:
        made = torch.randn(2 * p * k, 3, *case.size, generator=generator).to(case.device)
        return made.contiguous(
            memory_format=torch.channels_last if case.channels_last else torch.contiguous_format
        )

    cams = torch.where(modality == 1, 3, 1)
    labels, modality, cams = (values.to(case.device) for values in (labels, modality, cams))
    return Batch(images(), labels, modality, cams, images() if loop.needs_shapes else None)
