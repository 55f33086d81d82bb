"""The vectors whose inner products are the scores of a rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching import check_calibration
from mixer_plugin.rules import Rule, check_rules
from mixer_plugin.unit_features import UnitFeatures, UnitSource, unit_source

Center = dict[str, Tensor]
_SOURCES = ("erased", "related")


def searchable(rule: str, calibration: str | None) -> Rule:
    """The rule of this name.

    Raises:
        MixERValueError: Rule or calibration is unknown, or needs more than one pair at a time.
    """
    chosen = check_rules([rule])[rule]
    if chosen.shuffled:
        raise MixERValueError(
            f"Rule {rule!r} shuffles the features of a whole set: a control for evaluate(), not "
            "for a search. Choose another rule."
        )
    if chosen.standardised:
        raise MixERValueError(
            f"Rule {rule!r} standardises by the whole gallery, in which every addition changes all "
            "vectors; use rule 'mixer', with calibration 'center' or None, or mixer_plugin.scores."
        )
    check_calibration(calibration)
    if calibration == "znorm":
        raise MixERValueError(
            "Calibration 'znorm' needs a query's scores with the whole gallery, which a search "
            "does not compute. Use 'center', None, or mixer_plugin.scores."
        )
    return chosen


def normalised(features: FeatureSet, rule: Rule, center: Center | None) -> UnitFeatures:
    """All images' features, normalised and, given means, centred by modality.

    Raises:
        MixERValueError: There is no mean for a modality of these images.
    """
    source = _source(features, rule)
    if center is not None:
        for value in sorted(set(features.modality.tolist())):
            if center["erased"][value].isnan().any():
                raise MixERValueError(
                    f"Calibration 'center' has no mean for {Modality(value).name.lower()} images: "
                    "the first set added held none. Build from a gallery of both modalities."
                )
        device = features.erased.device
        source = replace(source, center={name: x.to(device) for name, x in center.items()})
    return source.rows(_every(features))


def find_center(features: FeatureSet, rule: Rule) -> Center:
    """The mean of each normalised feature per modality, float32 [2, D]; NaN where none is."""
    source = _source(features, rule)
    center = source.centered(source.rows(_every(features))).center
    return {name: value.cpu() for name, value in (center or {}).items()}


def item_vectors(unit: UnitFeatures, rule: Rule, modality: int) -> NDArray[np.float32]:
    """Vectors of images for the index of their modality, float32 [N, D]: the halves that count."""
    return _joined([unit.parts[_SOURCES[column]] for column in _columns(rule, modality)])


def query_vectors(unit: UnitFeatures, rule: Rule, modality: int) -> NDArray[np.float32]:
    """Vectors of queries for the index of a modality, float32 [Q, D]: the same halves, weighted.

    Their inner product with an image's vector is w_e cos_e + w_r cos_r, with the rule's weights
    for the two modalities (MixER, sec. 3.3).
    """
    device = unit.modality.device
    weights = torch.tensor([rule.weights(asking, modality) for asking in Modality], device=device)
    own = weights[unit.modality]
    return _joined(
        [unit.parts[_SOURCES[column]] * own[:, column, None] for column in _columns(rule, modality)]
    )


def _columns(rule: Rule, modality: int) -> list[int]:
    """Which of erased and related count for any pair with an image of a modality."""
    weights = [rule.weights(asking, modality) for asking in Modality]
    return [column for column in range(len(_SOURCES)) if any(w[column] for w in weights)]


def _joined(halves: list[Tensor]) -> NDArray[np.float32]:
    joined = torch.cat(halves, dim=1) if len(halves) > 1 else halves[0]
    return joined.contiguous().cpu().numpy()


def _source(features: FeatureSet, rule: Rule) -> UnitSource:
    return unit_source(features, {"": rule})


def _every(features: FeatureSet) -> Tensor:
    return torch.arange(len(features), device=features.erased.device)
