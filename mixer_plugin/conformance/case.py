"""A test case of the invariants: one network, its loop, and batches for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import Adapter
from mixer_plugin.attach import base_parameters, mixer_loss, mixer_parameters, wrap_with_mixer
from mixer_plugin.config import MixERConfig

if TYPE_CHECKING:
    from mixer_plugin.baselines.loops import Batch, Loop, Step

IDENTITIES, IMAGES = 2, 2  # per batch; images of each modality


@dataclass(frozen=True)
class Case:
    """One codebase.

    Attributes:
        prototype: its bare network, never trained itself.
        adapter: the adapter under trial.
        new_loop: makes the training loop around the network.
        recipe: the public training recipe.
        image_size: (height, width) of the images.
        classes: number of identities that the network was made for.
        config: what it is wrapped with.
    """

    prototype: nn.Module
    adapter: Adapter
    new_loop: Callable[[], Loop]
    recipe: dict[str, Any]
    image_size: tuple[int, int]
    classes: int
    config: MixERConfig = field(default_factory=MixERConfig)

    @property
    def in_loop(self) -> bool:
        """Whether the loop adds the MixER loss (script family)."""
        return self.adapter.adds_loss() == "loop"

    def bare(self) -> nn.Module:
        """A copy of the network."""
        return copy.deepcopy(self.prototype)

    def wrapped(self, mode: str = "e2e", **options: Any) -> nn.Module:
        """A wrapped copy."""
        options = {"config": self.config, "adapter": self.adapter, **options}
        return wrap_with_mixer(self.bare(), mode, seed=0, num_classes=self.classes, **options)

    def batch(self, seed: int = 0) -> Batch:
        """Random images in the loop's row order."""
        from mixer_plugin.baselines.loops import Batch

        generator = torch.Generator().manual_seed(seed)
        ids = torch.randperm(self.classes, generator=generator)[:IDENTITIES]
        labels = ids.repeat_interleave(2 * IMAGES)
        modality = torch.tensor([1, 0]).repeat(IDENTITIES * IMAGES)
        if self.new_loop().rows == "blocks":
            order = modality.argsort(stable=True)
            labels, modality = labels[order], modality[order]
        size = (2, len(labels), 3, *self.image_size)
        images, shapes = torch.randn(size, generator=generator)
        return Batch(images, labels, modality, torch.where(modality == 1, 3, 1), shapes)

    def images(self, modality: int, seed: int = 5) -> tuple[Tensor, Tensor]:
        """Images of one modality to evaluate, and their modality."""
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(3, 3, *self.image_size, generator=generator)
        return images, torch.full((3,), modality)

    def embed(self, model: nn.Module, modality: int) -> Tensor:
        """The retrieval embedding as the codebase's own evaluation computes it."""
        model.eval()
        with torch.no_grad():
            return self.adapter.embed(model, *self.images(modality))

    def step(self, model: nn.Module, seed: int = 0, loop: Loop | None = None) -> Step:
        """One training forward of the codebase's loop, on random numbers of its own."""
        if loop is None:
            loop = self.new_loop()
            loop.start_epoch(model, 0)
        model.train()
        torch.manual_seed(seed + 1)
        return loop(model, self.batch(seed))

    def total(self, model: nn.Module, step: Step) -> Tensor:
        """The loss that is differentiated: the loop's, and MixER's where the loop adds it."""
        if self.in_loop and hasattr(model, "mixer") and step.labels is not None:
            return step.loss + self.added(model, step, step.labels)
        return step.loss

    def added(self, model: nn.Module, step: Step, labels: Tensor) -> Tensor:
        """MixER's loss of a step for labels, with the rows' modality where only the loop knows."""
        return mixer_loss(model, labels, getattr(step, "modality", None))

    def train(self, model: nn.Module, steps: int) -> None:
        """Optimizer steps as the public loop makes them: groups, rates, clipping, twin."""
        from mixer_plugin.baselines.recipe import build_optimizer, set_rates

        optimizer, loop = build_optimizer(model, self.recipe), self.new_loop()
        loop.start_epoch(model, 0)
        set_rates(optimizer, self.recipe, 0)
        norm = self.recipe.get("clip_grad_norm")
        for seed in range(steps):
            loss = self.total(model, self.step(model, seed, loop))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            if norm is not None:
                # Apart, as the integration page says: one joint norm would scale the base's by the
                # heads' gradients.
                own = hasattr(model, "mixer")
                base = base_parameters(model) if own else list(model.parameters())
                torch.nn.utils.clip_grad_norm_(base, norm)
                if own:
                    torch.nn.utils.clip_grad_norm_(mixer_parameters(model), norm)
            optimizer.step()
            loop.stepped(model)
