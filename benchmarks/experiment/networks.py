"""The networks of a run: their options, image sizes and starting weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mixer_plugin.baselines import create_baseline, options_of
from mixer_plugin.benchmarks.experiment.config import Table3Config, baseline_of
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.trunk_weights import TrunkWeights, trunk_weights


@dataclass(frozen=True, kw_only=True)
class Network:
    """A baseline as a run builds it.

    Attributes:
        name: of its entry in the configuration: the baseline's, or ``NAME@LABEL``.
        given: its options in the configuration.
        options: of ``create_baseline``: the public recipe's, then the given ones.
        image_size: (height, width) in pixels.
        weights: of the trunk, as :func:`trunk_weights` takes them.
        weights_missing: what to do where they cannot be had: ``error`` or ``none``.
    """

    name: str
    given: Mapping[str, Any]
    options: Mapping[str, Any]
    image_size: tuple[int, int]
    weights: str | None
    weights_missing: str

    @property
    def baseline(self) -> str:
        """Name of the baseline, whatever its label."""
        return baseline_of(self.name)

    def trunk_weights(self) -> TrunkWeights:
        """Its starting weights; as :func:`~.trunk_weights.trunk_weights`, errors too."""
        trunk = self.given.get("trunk", "resnet50")
        return trunk_weights(self.weights, trunk, self.weights_missing)

    def build(self, classes: int) -> tuple[nn.Module, TrunkWeights]:
        """The network for a number of identities, with its starting weights.

        Raises:
            MixERError: for options that do not fit, or weights that cannot be had.
        """
        weights = self.trunk_weights()
        options = {**self.options, "weights": weights.path}
        return create_baseline(self.baseline, classes, **options), weights


def network_of(config: Table3Config, name: str) -> Network:
    """A baseline of a run, by the name of its entry.

    Raises:
        MixERError: if its public recipe is asked for and not known.
    """
    given, size = config.baselines[name], config.image_size
    baseline = baseline_of(name)
    options: dict[str, Any] = {}
    if isinstance(config.recipe, PublicRecipe):
        options, size = config.recipe.network(baseline), size or config.recipe.image_size(baseline)
    assert size is not None  # the configuration asks for one where the recipe brings none
    options |= given
    if "image_size" in options_of(baseline):
        options["image_size"] = size
    options.pop("weights", None)
    return Network(
        name=name,
        given=given,
        options=options,
        image_size=size,
        weights=given.get("weights") or config.training.weights,
        weights_missing=config.training.weights_missing,
    )
