"""The vectors whose inner products are the scores of a rule."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.normalized import UnitFeatures
from mixer_plugin.matching.rules import Rule, check_rules
from mixer_plugin.matching.scores import check_calibration
from mixer_plugin.matching.similarity import terms
from mixer_plugin.search.fitted import GalleryStatistics, all_rows, follow

_SOURCES = ("erased", "related")


def searchable(rule: str, calibration: str | None) -> Rule:
    """The rule of this name.

    Raises:
        MixERValueError: Rule or calibration is unknown, or needs more than one pair at a time.
    """
    chosen = check_rules([rule])[rule]
    if "shuffled" in chosen.sources:
        raise MixERValueError(
            f"Rule {rule!r} shuffles the features of a whole set: a control for evaluate(), not "
            "for a search. Choose another rule."
        )
    check_calibration(calibration)
    if calibration == "znorm":
        raise MixERValueError(
            "Calibration 'znorm' needs a query's scores with the whole gallery, which a search "
            "does not compute. Use 'center', None, or mixer_plugin.scores."
        )
    return chosen


def normalised(features: FeatureSet, rule: Rule, first: GalleryStatistics | None) -> UnitFeatures:
    """All queries or later images, ready for vectors; errors as of ``follow``."""
    return follow(features, rule, first or GalleryStatistics()).rows(all_rows(features))


def item_vectors(unit: UnitFeatures, rule: Rule, modality: int) -> NDArray[np.float32]:
    """Vectors of images for the index of their modality, float32 [N, D]: the halves that count.

    Of a standardised rule, for each half f its slopes a and offsets b (``UnitFeatures.scaling``)
    come along: f, a f for each modality of queries, and at the end the sum of weight times b for
    each modality of queries, and 1.
    """
    scaling = unit.scaling
    if scaling is None:
        return _joined([unit.parts[_SOURCES[column]] for column in _columns(rule, modality)])
    parts = []
    offsets = unit.modality.new_zeros((len(unit.modality), 3), dtype=torch.float32)
    for source, weights in _weights(rule, modality).items():
        value = unit.parts[source]
        parts.append(value)
        for asking, weight in weights.items():
            parts.append(value * scaling[source][:, asking, :1])
            offsets[:, asking] += weight * scaling[source][:, asking, 1]
    offsets[:, 2] = 1
    return _joined([*parts, offsets])


def query_vectors(unit: UnitFeatures, rule: Rule, modality: int) -> NDArray[np.float32]:
    """Vectors of queries for the index of a modality, float32 [Q, D]: the same halves, weighted.

    Their inner product with an image's vector is w_e cos_e + w_r cos_r, with the rule's weights
    for the two modalities (MixER, sec. 3.3); of a standardised rule the same sum of
    cos (a_q + a_g) - b_q - b_g (``mixer_plugin.matching.score_norm``).
    """
    if unit.scaling is not None:
        return _standardised_queries(unit, unit.scaling, rule, modality)
    device = unit.modality.device
    weights = torch.tensor([rule.weights(asking, modality) for asking in Modality], device=device)
    own = weights[unit.modality]
    return _joined(
        [unit.parts[_SOURCES[column]] * own[:, column, None] for column in _columns(rule, modality)]
    )


def _standardised_queries(
    unit: UnitFeatures, scaling: dict[str, Tensor], rule: Rule, modality: int
) -> NDArray[np.float32]:
    parts = []
    asks = [(unit.modality == asking).float() for asking in Modality]
    offset = torch.zeros_like(asks[0])
    for source, weights in _weights(rule, modality).items():
        value, mine = unit.parts[source], scaling[source][:, modality]
        blocks = {asking: weight * asks[asking] for asking, weight in weights.items()}
        own = torch.stack(list(blocks.values())).sum(dim=0)
        parts.append(value * (own * mine[:, 0])[:, None])
        parts += [value * block[:, None] for block in blocks.values()]
        offset += own * mine[:, 1]
    return _joined([*parts, -torch.stack([*asks, offset], dim=1)])


def _weights(rule: Rule, modality: int) -> dict[str, dict[int, float]]:
    """By source, the weight of its cosine with images of a modality by modality of queries."""
    result: dict[str, dict[int, float]] = {}
    for asking in map(int, Modality):
        for source, weight in terms(rule, asking, modality):
            result.setdefault(source, {})[asking] = weight
    return result


def _columns(rule: Rule, modality: int) -> list[int]:
    """Which of erased and related count for any pair with an image of a modality."""
    weights = [rule.weights(asking, modality) for asking in Modality]
    return [column for column in range(len(_SOURCES)) if any(w[column] for w in weights)]


def _joined(halves: list[Tensor]) -> NDArray[np.float32]:
    joined = torch.cat(halves, dim=1) if len(halves) > 1 else halves[0]
    return joined.contiguous().cpu().numpy()
