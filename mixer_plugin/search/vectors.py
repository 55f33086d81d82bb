"""The vectors whose inner products are the scores of a rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.normalized import PLAIN, Lift, UnitFeatures, present
from mixer_plugin.matching.rules import Rule, check_rules
from mixer_plugin.matching.score_norm import all_rows
from mixer_plugin.matching.scores import check_calibration
from mixer_plugin.matching.similarity import lifted, terms
from mixer_plugin.search.fitted import GalleryStatistics, uncentered, with_statistics
from mixer_plugin.search.spaces import FeatureSpace


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


def normalised(
    features: FeatureSet, rule: Rule, statistics: GalleryStatistics | None
) -> UnitFeatures:
    """All queries or later images, ready for vectors; errors as of ``with_statistics``."""
    source = with_statistics(features, rule, statistics or GalleryStatistics())
    return source.rows(all_rows(features))


def item_vectors(unit: UnitFeatures, rule: Rule, modality: int) -> NDArray[np.float32]:
    """Vectors of images for the index of their modality, float32 [N, D]: the halves that count.

    Of a standardised rule, for each half f its slopes a and offsets b (``UnitFeatures.scaling``)
    come along: f, a f for each modality of queries, and at the end the sum of weight times b for
    each modality of queries, and 1.
    """
    weights = _weights(unit, rule, modality)
    if unit.scaling is None:
        return _joined([unit.parts[source] for source in weights])
    halves = []
    offsets = unit.modality.new_zeros((len(unit.modality), 3), dtype=torch.float32)
    for source, by_query in weights.items():
        value, scaling = unit.parts[source], unit.scaling[source]
        halves.append(value)
        for query, weight in by_query.items():
            halves.append(value * scaling[:, query, :1])
            offsets[:, query] += weight * scaling[:, query, 1]
    offsets[:, 2] = 1
    return _joined([*halves, offsets])


def item_parts(
    vectors: NDArray[np.float32], rule: Rule, modality: int, space: FeatureSpace
) -> dict[str, NDArray[np.float32]]:
    """The normalised features by source, float32 [N, D] each, that ``item_vectors`` joined."""
    queries: dict[str, int] = {}
    for query in map(int, Modality):
        for source, _ in terms(rule, query, modality):
            queries[source] = queries.get(source, 0) + 1
    parts, start = {}, 0
    for source, count in queries.items():
        width = (space.related or 0) if source == "related" else space.erased
        parts[source] = vectors[:, start : start + width]
        start += width * (1 + count if rule.standardised else 1)
    return parts


def query_vectors(unit: UnitFeatures, rule: Rule, modality: int) -> NDArray[np.float32]:
    """Vectors of queries for the index of a modality, float32 [Q, D]: the same halves, weighted.

    Their inner product with an image's vector is w_e cos_e + w_r cos_r, with the rule's weights
    for the two modalities (MixER, sec. 3.3); of a standardised rule the same sum of
    cos (a_q + a_g) - b_q - b_g (``mixer_plugin.matching.score_norm``), across modalities lifted.
    """
    halves = []
    offset = torch.zeros_like(unit.modality, dtype=torch.float32)
    for source, by_query in _weights(unit, rule, modality).items():
        value = unit.parts[source]
        own = value.new_tensor([by_query.get(query, 0.0) for query in Modality])[unit.modality]
        if unit.scaling is None:
            halves.append(value * own[:, None])
            continue
        slope, shift = unit.scaling[source][:, modality].unbind(dim=1)
        blocks = (weight * (unit.modality == query) for query, weight in by_query.items())
        halves += [value * weight[:, None] for weight in (own * slope, *blocks)]
        offset += own * shift
    if unit.scaling is not None:
        offset -= _lift(unit, rule).offset * (unit.modality != modality)
        ones = [(unit.modality == query).float() for query in Modality]
        halves.append(-torch.stack([*ones, offset], dim=1))
    return _joined(halves)


def _weights(unit: UnitFeatures, rule: Rule, modality: int) -> dict[str, dict[int, float]]:
    """By source, the weight of its cosine with images of a modality by modality of queries."""
    result: dict[str, dict[int, float]] = {}
    for query in map(int, Modality):
        slope = 1.0 if query == modality else _lift(unit, rule).slope
        found = terms(rule, query, modality)
        for source, weight in lifted(found, _lift(unit, rule)) if rule.standardised else found:
            result.setdefault(source, {})[query] = slope * weight
    return result


def _lift(unit: UnitFeatures, rule: Rule) -> Lift:
    return unit.lifts.get(rule, PLAIN)


def _joined(halves: list[Tensor]) -> NDArray[np.float32]:
    joined = torch.cat(halves, dim=1) if len(halves) > 1 else halves[0]
    return joined.contiguous().cpu().numpy()


class Labelled(Protocol):
    """An image: its person, camera and modality."""

    @property
    def id(self) -> int: ...  # noqa: D102
    @property
    def camera(self) -> int: ...  # noqa: D102
    @property
    def modality(self) -> int: ...  # noqa: D102


def features_of_vectors(
    vectors: Sequence[NDArray[np.float32]],
    images: Sequence[Labelled],
    rule: Rule,
    space: FeatureSpace,
    statistics: GalleryStatistics,
) -> FeatureSet:
    """Features of N images, each of length 1; what the rule does not use is zero.

    Args:
        vectors: Of each image, as ``item_vectors`` made it, float32 [D]; more at its end is left.
        images: Their labels.
        rule: Of the gallery, and the two below.
        space: Of the features.
        statistics: Of the first set.
    """
    modality = torch.tensor([image.modality for image in images])
    erased = torch.zeros(len(images), space.erased)
    related = None if space.related is None else torch.zeros(len(images), space.related)
    for side in present(modality):
        places = (modality == side).nonzero().flatten()
        own = np.stack([vectors[i] for i in places.tolist()])
        for source, array in item_parts(own, rule, side, space).items():
            part = torch.from_numpy(array)
            if statistics.center is not None:
                part = uncentered(part, statistics.center[source][side])
            target = related if source == "related" else erased
            assert target is not None, "the rule needs what it has"
            target[places] = part
    return FeatureSet(
        erased=erased,
        related=related,
        ids=[image.id for image in images],
        cams=[image.camera for image in images],
        modality=modality,
        reduction=space.reduction,
    )
