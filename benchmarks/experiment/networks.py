"""Networks of a run: their options, starting weights, image sizes and recipes."""

from __future__ import annotations

from typing import Any

from torch import nn

from mixer_plugin.baselines import create_baseline, create_loop, options_of
from mixer_plugin.benchmarks.experiment.cells import Job, finishes, trained_after
from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.training.fit import TrainingSet
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.recipe import Plan, Recipe
from mixer_plugin.benchmarks.training.trunk_weights import TrunkWeights, trunk_weights


def image_size(config: Table3Config, baseline: str) -> tuple[int, int]:
    """(height, width) of a network's images: the configuration's, or its public recipe's."""
    if config.image_size is not None:
        return config.image_size
    assert isinstance(config.recipe, PublicRecipe)
    return config.recipe.image_size(baseline)


def plans_of(config: Table3Config, job: Job, cell: str, train: TrainingSet) -> list[Plan]:
    """The recipes of a cell on its training images, one for each of its trainings."""
    return [
        recipe.plan(job.baseline, train.labels, train.modality)
        if isinstance(recipe, PublicRecipe)
        else recipe
        for recipe in recipes_of(config, cell)
    ]


def recipes_of(config: Table3Config, cell: str) -> list[Recipe | PublicRecipe]:
    """The recipes that the configuration gives a cell, one for each of its trainings.

    A cell's network, or its heads on the finished baseline; then, where they are trained anew
    (``finishes``), the heads on the finished network.
    """
    own = config.variants[cell].recipe if cell in config.variants else None
    after = config.heads.recipe
    first = own or (after if trained_after(config, cell) else None) or config.recipe
    return [first, after] if after is not None and finishes(config, cell) else [first]


def network_options(config: Table3Config, baseline: str) -> dict[str, Any]:
    """Options of ``create_baseline``: the public recipe's, then the configuration's.

    Raises:
        MixERError: for options that do not fit.
    """
    options: dict[str, Any] = {}
    if isinstance(config.recipe, PublicRecipe):
        options = config.recipe.network(baseline)
    options |= config.baselines[baseline]
    if "image_size" in options_of(baseline):
        options["image_size"] = image_size(config, baseline)
    options.pop("weights", None)
    return options


def network_of(config: Table3Config, baseline: str, classes: int) -> tuple[nn.Module, TrunkWeights]:
    """A network with its starting weights.

    Raises:
        MixERError: for options that do not fit, or weights that cannot be had.
    """
    options = network_options(config, baseline)
    weights = weights_of(config, baseline)
    network = create_baseline(baseline, classes, **{**options, "weights": weights.path})
    return network, weights


def weights_of(config: Table3Config, baseline: str) -> TrunkWeights:
    """The trunk's starting weights of a network: its own option, or the whole run's.

    Raises:
        MixERError: if they cannot be had and the configuration does not go on without.
    """
    options = config.baselines[baseline]
    own = options.get("weights") or config.training.weights
    return trunk_weights(own, options.get("trunk", "resnet50"), config.training.weights_missing)


def needs_shapes(baseline: str) -> bool:
    """Whether a baseline trains on body shapes beside the images."""
    return create_loop(baseline).needs_shapes
