"""The benchmark's own training loop: exact to repeat, interrupt and resume."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.baselines.loops import Batch, Loop
from mixer_plugin.benchmarks.steps import seed_step
from mixer_plugin.data.samplers import IdentitySampler
from mixer_plugin.data.transforms import Augmentation, augment
from mixer_plugin.errors import MixERValueError, closest

# Identities of the random streams; any distinct constants.
_AUGMENT = 0x5EED


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one network is trained.

    Attributes:
        p: identities per batch.
        k: images per identity and modality; a batch has 2·p·k rows.
        iterations: optimizer steps.
        lr: peak learning rate of AdamW.
        warmup: steps of linear warm-up; a cosine to zero follows.
        weight_decay: of AdamW.
        augmentation: of the training images.
    """

    p: int = 8
    k: int = 4
    iterations: int = 1000
    lr: float = 3e-3
    warmup: int = 50
    weight_decay: float = 5e-4
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name in ("p", "k", "iterations"):
            if getattr(self, name) < 1:
                raise MixERValueError(f"Recipe.{name} is {getattr(self, name)}; expected >= 1.")
        if self.lr <= 0 or self.weight_decay < 0 or self.warmup < 0:
            raise MixERValueError(
                f"Recipe has lr={self.lr}, weight_decay={self.weight_decay}, "
                f"warmup={self.warmup}; expected lr > 0 and the others >= 0."
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Builds a recipe; raises :class:`MixERValueError` for an unknown key."""
        known = [item.name for item in fields(cls)]
        for key in values:
            if key not in known:
                raise MixERValueError(f"Unknown recipe key {key!r}.{closest(key, known)}")
        values = dict(values)
        if isinstance(values.get("augmentation"), dict):
            inner = [item.name for item in fields(Augmentation)]
            for key in values["augmentation"]:
                if key not in inner:
                    raise MixERValueError(f"Unknown augmentation key {key!r}.{closest(key, inner)}")
            values["augmentation"] = Augmentation(**values["augmentation"])
        return cls(**values)

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then half a cosine down to zero."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.iterations - self.warmup, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class TrainingSet:
    """Decoded training images.

    Attributes:
        images: uint8 [N, 3, H, W].
        labels: int64 [N] in [0, C).
        modality: int64 [N], 0 visible, 1 infrared.
        cams: int64 [N].
        shapes: uint8 [N, 3, H, W], their body shapes, for the baseline that needs them.
    """

    images: Tensor
    labels: Tensor
    modality: Tensor
    cams: Tensor
    shapes: Tensor | None = None

    @property
    def classes(self) -> int:
        """Number of identities."""
        return int(self.labels.max()) + 1


def fit(
    model: nn.Module,
    parameters: list[nn.Parameter],
    loop: Loop,
    data: TrainingSet,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Trains a model in place.

    Batches, augmentation and the global random state at step t are functions of (seed, t) alone,
    so a run continued from a checkpoint ends in the same bits as one that was never interrupted.

    Args:
        model: in training mode throughout.
        parameters: what the optimizer steps.
        loop: the codebase's loop: row order, losses, what happens at an epoch's start and after a
            step. An epoch is as many steps as it takes to see as many images as there are.
        data: the training images.
        recipe: batch size, length, rates, augmentation.
        seed: of batches and augmentation.
        checkpoint: file that is written aside and renamed every ``checkpoint_every`` steps, read at
            the start if it exists, and removed at the end; an interruption loses what came after
            the last writing.
        checkpoint_every: steps between two writings.
        on_step: called with (step, loss) after each step.
    """
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    sampler = IdentitySampler(
        data.labels,
        data.modality,
        p=recipe.p,
        k=recipe.k,
        order=loop.rows,
        iterations=recipe.iterations,
        seed=seed,
    )
    epoch_steps = max(1, len(data.labels) // (2 * recipe.p * recipe.k))
    loop.start_epoch(model, 0)  # a loop may make here what a checkpoint then fills
    start = _resume(checkpoint, model, loop, optimizer) if checkpoint is not None else 0
    model.train().to(memory_format=torch.channels_last)
    for step in range(start, recipe.iterations):
        if step == start or step % epoch_steps == 0:
            loop.start_epoch(model, step // epoch_steps)
        batch = _batch(data, sampler.batch(step), recipe.augmentation, seed, step)
        seed_step(seed, step)
        loss = loop(model, batch).loss
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.step()
        loop.stepped(model)
        if on_step is not None:
            on_step(step, float(loss.detach()))
        if checkpoint is not None and (step + 1) % checkpoint_every == 0:
            _save(checkpoint, model, loop, optimizer, step + 1)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def _batch(
    data: TrainingSet, rows: Tensor, augmentation: Augmentation, seed: int, step: int
) -> Batch:
    """The augmented images of some rows; shapes are augmented apart, as SGEIL's loader does."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) ^ (_AUGMENT << 32))
    modality, shapes = data.modality[rows], None
    images = augment(data.images[rows], modality, generator, augmentation)
    if data.shapes is not None:
        plain = dataclasses.replace(augmentation, grey="none", grey_p=None)
        shapes = augment(data.shapes[rows], modality, generator, plain)
    return Batch(
        images.contiguous(memory_format=torch.channels_last),
        data.labels[rows],
        modality,
        data.cams[rows],
        shapes,
    )


def _save(
    path: Path, model: nn.Module, loop: Loop, optimizer: torch.optim.Optimizer, step: int
) -> None:
    aside = path.with_suffix(".partial")
    state = {
        "step": step,
        "model": model.state_dict(),
        "loop": loop.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, aside)
    os.replace(aside, path)


def _resume(path: Path, model: nn.Module, loop: Loop, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    loop.load_state_dict(state["loop"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
