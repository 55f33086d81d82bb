"""Evaluation of one query at a time, word for word from the definitions.

Slow, and on purpose without any code of ``evaluation.settings``, ``evaluation.ranking`` or, but for
the weights of rules, ``matching``: the audit compares the fast evaluation with this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.rules import Rule

# What float32 may miss a cosine by. Measured: up to 8e-7, with 12,288 dimensions and nearly equal
# features; two computations in float32 may differ by twice that.
ROUNDING = 4e-6
_ROWS = 64  # of the gallery, multiplied with all of it at a time


@dataclass(frozen=True)
class Labels:
    """Labels of all images, as lists; ``cameras`` are those of each modality."""

    ids: list[int]
    cams: list[int]
    modality: list[int]
    cameras: dict[int, set[int]]


def read_labels_of(features: FeatureSet) -> Labels:
    """The labels of a feature set."""
    cams, modality = features.cams.tolist(), features.modality.tolist()
    cameras: dict[int, set[int]] = {}
    for cam, side in zip(cams, modality, strict=True):
        cameras.setdefault(side, set()).add(cam)
    # Below 0, a person is unknown, and so another one in each image.
    ids = [who if who >= 0 else -1 - row for row, who in enumerate(features.ids.tolist())]
    return Labels(ids, cams, modality, cameras)


def is_listed(setting: str, query: int, item: int, labels: Labels, protocol: Protocol) -> bool:
    """Whether a gallery item stays in a query's list (MixER, sec. 4; the protocol's cameras).

    Args:
        setting: One of ``SETTINGS``.
        query: Row of the query.
        item: Row of the item.
        labels: Labels of all rows.
        protocol: What says which cameras see one place, and what of the query's own is removed.
    """
    if item == query:
        return False
    same_id = labels.ids[query] == labels.ids[item]
    same_modality = labels.modality[query] == labels.modality[item]
    pair = (labels.cams[query], labels.cams[item])
    same_number = pair[0] == pair[1]
    one_place = pair in protocol.colocated or pair[::-1] in protocol.colocated
    if setting == "mix":
        return True
    if setting == "mix-id":
        return not (same_modality and same_id)
    if setting in ("mix-cam", "mix-cam-id"):
        own = same_number or (one_place and protocol.colocated_mixed)
        return not own if setting == "mix-cam" else not (own and same_id)
    if setting == "cross":
        if same_modality:
            return False
        # Numbers that both modalities use need not mean one camera: under any-id they count for
        # nothing, unless the protocol says that the cameras are at one place.
        own = one_place or (same_number and protocol.same_camera == "same-id")
    elif setting == "uni":
        if not same_modality:
            return False
        own = same_number and len(labels.cameras[labels.modality[query]]) > 1
    else:
        raise MixERValueError(f"Setting {setting!r} has no literal definition here.")
    removed = {"any-id": own, "same-id": own and same_id, "keep": False}
    return not removed[protocol.same_camera]


@dataclass(frozen=True)
class Measures:
    """Metrics of one list: average precision, inverse negative penalty, first rank, positives."""

    ap: float
    inp: float
    first: int
    positives: int


def measure(ranked: Sequence[int], own: int, dedup: bool) -> Measures | None:
    """Metrics of one ranked list; None without a positive.

    Args:
        ranked: Identities, best first.
        own: The query's.
        dedup: Whether each identity counts once in the rank of the first (SYSU-MM01's CMC).
    """
    hits, total, last, first = 0, 0.0, 0, 0
    before: set[int] = set()
    for rank, identity in enumerate(ranked, start=1):
        if identity == own:
            hits += 1
            total += hits / rank
            last = rank
            if hits == 1:
                first = len(before) + 1 if dedup else rank
        elif not hits:
            before.add(identity)
    return Measures(total / hits, hits / last, first, hits) if hits else None


def literal_scores(
    features: FeatureSet,
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
    rule: Rule,
    calibration: str | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores in float64 by the definitions of ``mixer_plugin.matching.scores.scores``.

    Args:
        features: All images; for a shuffled rule, already shuffled.
        queries: int64 [Q], rows.
        gallery: int64 [G], rows; the statistics of calibrations are over these.
        rule: Rule.
        calibration: None, ``znorm`` or ``center``.

    Returns:
        float64 [Q, G], and by how much float32 may miss each through rounding, float64 [Q, G].
    """
    modality = features.modality.cpu().numpy()
    sides = modality[queries], modality[gallery]
    cosines = _cosines(features, queries, gallery, rule, calibration)
    if not rule.standardised:
        score, slack = _weighed(cosines, rule, sides)
    else:
        slope, offset, means = _lift(features, gallery, rule, calibration)
        score, slack = _weighed(cosines, rule, sides, means)
        # What was lifted by is of float32 scores too, and so is not known exactly.
        across = sides[0][:, None] != sides[1]
        score = np.where(across, slope * score + offset, score)
        slack = np.where(across, slope, 1.0) * slack + 1e-5 * (np.abs(score) + 3.0)
    if calibration == "znorm":
        _standardise(score, slack, queries, gallery, sides[1])
    return score, slack


_Cosines = dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]


def _cosines(
    features: FeatureSet,
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
    rule: Rule,
    calibration: str | None,
) -> _Cosines:
    """Cosines that count, standardised where the rule says so, by place of the feature.

    Each with by how much float32 may miss it; both float64 [Q, G].
    """
    modality = features.modality.cpu().numpy()
    query_modality, held = modality[queries], modality[gallery]
    result = {}
    for place, values in enumerate((features.erased, features.related)):
        if values is None or not _weights(rule, place, (query_modality, held)).any():
            continue
        raw = values.cpu().numpy()
        q, g = (_unit(raw[rows].astype(np.float64), 1e-300) for rows in (queries, gallery))
        enlarged: NDArray[np.float64] = np.ones((len(q), len(g)))
        if calibration == "center":
            for side in set(held.tolist()):
                mean = g[held == side].mean(axis=0)
                g[held == side] -= mean
                q[query_modality == side] -= mean
            # Dividing by the length of what is left of a unit vector enlarges its error.
            enlarged = (1 / _length(q)[:, None] + 1 / _length(g)) / 2
            q, g = _unit(q), _unit(g)
        made, error = q @ g.T, ROUNDING * enlarged
        if rule.standardised:
            made, error = _both_sides(made, error, g, (queries, query_modality), (gallery, held))
        result[place] = made, error
    return result


def _weights(
    rule: Rule, place: int, sides: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.float64]:
    table = [[(*rule.weights(q, g), 0.0)[place] for g in (0, 1)] for q in (0, 1)]
    return np.array(table, dtype=np.float64)[sides[0][:, None], sides[1]]


def _weighed(
    cosines: _Cosines,
    rule: Rule,
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
    means: dict[int, float] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores and errors; with ``means`` a feature's weight is in proportion to its own."""
    shape = (len(sides[0]), len(sides[1]))
    score, slack, total, counted = (np.zeros(shape) for _ in range(4))
    for place, (made, error) in cosines.items():
        weights = _weights(rule, place, sides)
        total += weights
        weights = weights * (means or {}).get(place, 1.0)
        counted += weights
        score += weights * made
        slack += np.abs(weights) * error
    if means is None:
        return score, slack
    share = total / np.where(counted > 0, counted, 1.0)
    return score * share, slack * share


def _lift(
    features: FeatureSet, gallery: NDArray[np.int64], rule: Rule, calibration: str | None
) -> tuple[float, float, dict[int, float]]:
    """How much pairs across and features count: ``mixer_plugin.matching.lift``, word for word."""
    modality, cams = features.modality.cpu().numpy(), features.cams.cpu().numpy()
    sides = [gallery[modality[gallery] == side] for side in (0, 1)]
    sample = np.concatenate([rows[:: max(math.ceil(len(rows) / 1000), 1)] for rows in sides])
    place_of = {row: place for place, row in enumerate(gallery.tolist())}
    columns = [place_of[row] for row in sample.tolist()]
    kind = modality[sample], modality[sample]
    same = kind[0][:, None] == kind[1]
    pairs = ~np.eye(len(sample), dtype=bool)
    apart = same & (cams[sample][:, None] != cams[sample])
    within, across = (apart if apart.any() else same & pairs), ~same
    centred = "center" if calibration == "center" else None

    def looked(rule: Rule) -> _Cosines:
        found = _cosines(features, sample, gallery, rule, centred)
        return {place: (made[:, columns], off[:, columns]) for place, (made, off) in found.items()}

    def best(score: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
        rows = mask.any(axis=1)
        return float(np.where(mask, score, -np.inf).max(axis=1)[rows].mean())

    def right(score: NDArray[np.float64]) -> float:
        return min(max(best(score, within) - 0.35, 0.5), 3.0) if within.any() else 3.0

    cosines = looked(rule)
    means = {place: right(made) for place, (made, _) in cosines.items()}
    score, _ = _weighed(cosines, rule, kind, means)
    if not within.any() or not across.any() or not score[within].any():
        return 1.0, 0.0, means
    mean, slope = right(score), 0.5
    cubes = [(score[mask] ** 3).mean() for mask in (across, within)]
    if cubes[1] >= 0.05:
        slope = float(np.clip(cubes[0] / cubes[1] * mean / 3.0, 0.5, 1.0))
    plain = replace(rule, standardised=False)
    cosine, _ = _weighed(looked(plain), plain, kind)
    there = (cosine[across].mean() - cosine[within].mean()) / max(cosine[within].std(), 1e-6)
    offset = mean * (1 - slope * slope) / 2
    further = min(there, 0.9 * best(score, within) - slope * best(score, across))
    return slope, max(offset, further), means


def _length(value: NDArray[np.float64], least: float = 1e-12) -> NDArray[np.float64]:
    return np.maximum(np.sqrt((value * value).sum(axis=1)), least)


def _unit(value: NDArray[np.float64], least: float = 1e-12) -> NDArray[np.float64]:
    return value / _length(value, least)[:, None]


def _both_sides(
    cosine: NDArray[np.float64],
    error: NDArray[np.float64],
    items: NDArray[np.float64],
    asked: tuple[NDArray[np.int64], NDArray[np.int64]],
    drawn: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standardised by the query's and by the item's cosines with the gallery, and their mean.

    Args:
        cosine: float64 [Q, G].
        error: float64 [Q, G], of each; both are returned standardised.
        items: float64 [G, D], the normalised feature of the gallery.
        asked: Rows and modalities of the queries.
        drawn: The same of the gallery.
    """
    (queries, query_modality), (gallery, held) = asked, drawn
    result, wide = np.zeros_like(cosine), np.zeros_like(cosine)
    for row, query in enumerate(queries.tolist()):
        share = 0.5 if query_modality[row] in held else 1.0
        for side in (0, 1):
            part = held == side
            others = cosine[row, part & (gallery != query)]
            standard, off = _standard(cosine[row, part], error[row, part], others)
            result[row, part] += share * standard
            wide[row, part] += share * off
    for start in range(0, len(items), _ROWS):
        for place, line in enumerate(items[start : start + _ROWS] @ items.T, start=start):
            for side in (0, 1):
                part = query_modality == side
                others = line[(held == side) & (gallery != gallery[place])]
                standard, off = _standard(cosine[part, place], error[part, place], others)
                result[part, place] += standard / 2
                wide[part, place] += off / 2
    return result, wide


def _standard(
    value: NDArray[np.float64], error: NDArray[np.float64], others: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values standardised by others, and their error; 0 and 0 where the others are equal."""
    deviation = float(others.std()) if len(others) else 0.0
    if deviation <= 1e-9:
        return np.zeros_like(value), np.zeros_like(value)
    standard = (value - others.mean()) / deviation
    # Mean and deviation carry errors as well, the latter in proportion.
    return standard, error * (2 + np.abs(standard)) / deviation


def _standardise(
    score: NDArray[np.float64],
    slack: NDArray[np.float64],
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
    held: NDArray[np.int64],
) -> None:
    """Standardises, in place, each query's scores with each modality."""
    for row, query in enumerate(queries.tolist()):
        for side in (0, 1):
            part = held == side
            others = score[row, part & (gallery != query)]
            if len(others) < 2:  # nothing to compare with
                score[row, part] = slack[row, part] = 0.0
                continue
            deviation = float(others.std())
            standard = (score[row, part] - others.mean()) / max(deviation, 1e-9)
            # Mean and deviation carry errors as well, the latter in proportion.
            slack[row, part] *= (2 + np.abs(standard)) / max(deviation, 1e-9)
            score[row, part] = standard if deviation > 1e-9 else 0.0
