"""Training as the public code of a network does: optimizer, groups, rates, lengths, batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.attach import mixer_parameters
from mixer_plugin.baselines.recipe import build_optimizer, load_recipe, set_rates
from mixer_plugin.benchmarks.training.recipe import Recipe, plain
from mixer_plugin.data.loading.pipeline import Pipeline
from mixer_plugin.data.loading.public_augmentation import augmentation_of
from mixer_plugin.io.options import check_options, option

_REDUCED = ("parts", "modality_attention")


@dataclass(frozen=True, kw_only=True)
class PublicRecipe:
    """Every network by its own public recipe; ``recipe: public`` in a configuration.

    Attributes:
        dataset: whose settings: ``sysu``, ``regdb`` or ``llcm``.
        epochs: instead of the public number; rates still change at the public epochs.
        identities: per batch, instead of the public number.
        images: per identity and modality, instead of the public number.
        lr: the full rate, instead of the public one; groups at a tenth stay at a tenth of it.
    """

    dataset: str = option("sysu", choices=("sysu", "regdb", "llcm"))
    epochs: int | None = option(None, minimum=1)
    identities: int | None = option(None, minimum=1)
    images: int | None = option(None, minimum=1)
    lr: float | None = option(None, above=0)

    def __post_init__(self) -> None:
        check_options(self, "recipe.public")

    def facts(self, baseline: str) -> dict[str, Any]:
        """The recipe of a network, as ``baselines/recipes`` holds it but for the rate.

        Raises:
            MixERValueError: if the network is not trained on this data set.
        """
        facts = load_recipe(baseline, self.dataset)
        if self.lr is not None:
            facts["optimizer"]["lr"] = self.lr
        return facts

    def image_size(self, baseline: str) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.facts(baseline)["image_size"]
        return int(height), int(width)

    def network(self, baseline: str) -> dict[str, Any]:
        """Options of ``create_baseline``, without those that a reduced network is made by."""
        options = dict(self.facts(baseline)["network"])
        if baseline.endswith("-base"):
            options = {k: v for k, v in options.items() if k not in _REDUCED}
        return {"dataset": self.dataset, **options}

    def identities_and_precision(self, baseline: str) -> tuple[int, str]:
        """Identities per batch, and the precision, of a network."""
        facts = self.facts(baseline)
        return self.identities or int(facts["batch"]["identities"]), facts["precision"]

    def plan(self, baseline: str, labels: Tensor, modality: Tensor) -> PublicPlan:
        """The recipe of a network on a training set.

        Args:
            baseline: name of the network.
            labels: int64 [N], identities.
            modality: int64 [N], 0 visible, 1 infrared.

        Raises:
            MixERValueError: if the network is not trained on this data set.
        """
        facts = self.facts(baseline)
        p, precision = self.identities_and_precision(baseline)
        k = self.images or int(facts["batch"]["visible"])
        steps = _steps(facts["rows"], p, k, labels, modality)
        epochs = self.epochs or int(facts["schedule"]["epochs"])
        return PublicPlan(
            p=p,
            k=k,
            iterations=epochs * steps,
            steps=steps,
            augmentation=augmentation_of(facts),
            clip=facts.get("clip_grad_norm"),
            precision=precision,
            facts=facts,
        )


@dataclass(frozen=True, kw_only=True)
class PublicPlan:
    """A public recipe on a training set; the trainer takes it or a :class:`Recipe`.

    Attributes:
        p: identities per batch.
        k: images per identity and modality.
        iterations: optimizer steps.
        steps: of an epoch.
        augmentation: of the training images.
        clip: largest gradient norm, or None.
        precision: ``fp32`` or ``fp16``.
        facts: the public recipe.
    """

    p: int
    k: int
    iterations: int
    steps: int
    augmentation: Pipeline
    clip: float | None
    precision: str
    facts: Mapping[str, Any]

    def epoch_steps(self, images: int) -> int:
        """Steps of an epoch as the public sampler ends it, whatever the number of images."""
        return self.steps

    def make_optimizer(
        self, model: nn.Module, parameters: list[nn.Parameter]
    ) -> torch.optim.Optimizer:
        """The public optimizer and its groups; MixER's heads in a last one, at the full rate.

        Left to the script family's own selection, the heads would train at a tenth of it.
        """
        wanted = {id(p) for p in parameters}
        heads = {id(p) for p in mixer_parameters(model)} if hasattr(model, "mixer") else set()
        optimizer = build_optimizer(model, dict(self.facts))
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) in wanted - heads]
        own = [p for p in parameters if id(p) in heads]
        if own:
            optimizer.add_param_group({"params": own, "lr": self.facts["optimizer"]["lr"]})
        return optimizer

    def set_rates(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """As the public schedule, which knows epochs only."""
        set_rates(optimizer, dict(self.facts), step // self.steps)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return plain(self)


Plan = Recipe | PublicPlan
"""What the trainer takes: a recipe for one network and one training set."""


def _steps(rows: str, p: int, k: int, labels: Tensor, modality: Tensor) -> int:
    """Steps of an epoch.

    Script family: one batch more than fill up the larger modality (its IdentitySampler). Ignite
    family: each identity gives as many groups of k and k images as its smaller modality has, and p
    groups make a batch (its RandomIdentitySampler, but for the identities left over at the end).
    """
    if rows == "blocks":
        return int(max((modality == m).sum() for m in (0, 1))) // (p * k) + 1
    classes = int(labels.max()) + 1
    counts = torch.stack([torch.bincount(labels[modality == m], minlength=classes) for m in (0, 1)])
    return max(1, int((counts.min(0).values // k).sum()) // p)
