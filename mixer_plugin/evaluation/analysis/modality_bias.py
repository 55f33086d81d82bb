"""Errors in mixed galleries by modality and by camera."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.analysis.ranked_lists import (
    RankedLists,
    mean_figures,
    precision_and_first,
    ranked_lists,
)
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.ranking.metrics import nan_mean
from mixer_plugin.evaluation.settings import SIDES, find_groups, query_side
from mixer_plugin.evaluation.tables import markdown_table, percent, to_json
from mixer_plugin.features import FeatureSet, Modality

MIXED = ("mix", "mix-cam", "mix-cam-id", "mix-id")


@dataclass(frozen=True)
class ModalityBias:
    """How strongly a setting prefers a query's own modality.

    Means over the queries with a positive (of the modality in question, where one is), then over
    the trials; NaN where there is none.

    Attributes:
        setting: Setting.
        query: ``infrared`` or ``visible``.
        k: Length of the top of the list; a shorter list counts whole.
        share: Share of items of the query's modality in the top k, after the setting's removals.
        expected: Their share of the whole list: what an order blind to the modality gives.
        first_same: Rank of the first positive of the query's modality.
        first_cross: Rank of the first positive of the other modality.
        mAP_same: mAP where only positives of the query's modality are in the list.
        mAP_cross: mAP where only positives of the other modality are in the list.
    """

    setting: str
    query: str
    k: int
    share: float
    expected: float
    first_same: float
    first_cross: float
    mAP_same: float
    mAP_cross: float

    @property
    def bias(self) -> float:
        """``share - expected``: 0 without a preference, at most ``1 - expected``."""
        return self.share - self.expected


@dataclass(frozen=True)
class BiasReport:
    """Modality bias, one row per setting."""

    rows: tuple[ModalityBias, ...]

    def to_markdown(self) -> str:
        """A Markdown table; shares and mAP in percent, ranks as they are."""
        body = []
        for row in self.rows:
            shares = [percent(row.share), percent(row.expected), percent(row.bias, signed=True)]
            ranks = ["–" if np.isnan(r) else f"{r:.1f}" for r in (row.first_same, row.first_cross)]
            halves = [percent(row.mAP_same), percent(row.mAP_cross)]
            body.append([row.setting, row.query, str(row.k), *shares, *ranks, *halves])
        head = ["setting", "query", "k", "own modality in top k", "expected", "bias"]
        head += ["first same", "first cross", "mAP same", "mAP cross"]
        return markdown_table(head, body, labels=2)

    def to_json(self) -> str:
        """JSON in full precision; NaN becomes null."""
        return to_json([asdict(row) | {"bias": row.bias} for row in self.rows])


def modality_bias(
    features: FeatureSet,
    protocol: str | Protocol,
    *,
    settings: Sequence[str] = MIXED,
    query: str = "infrared",
    rule: str = "mixer",
    calibration: str | None = None,
    k: int = 10,
    trials: int | None = None,
) -> BiasReport:
    """Measures how far items of the query's own modality crowd the top of the lists.

    Args:
        features: Images of both modalities.
        protocol: Protocol or its id.
        settings: Settings.
        query: ``infrared`` or ``visible``.
        rule: Rule of ``scores``.
        calibration: Calibration of ``scores``.
        k: Length of the top of the list.
        trials: Number of gallery draws; None: what the protocol says.

    Returns:
        A row per setting.

    Raises:
        MixERValueError: An unknown name, ``k`` below 1, or features that do not fit.
    """
    if k < 1:
        raise MixERValueError(f"k must be at least 1, got {k}.")
    own = features.modality.cpu().numpy() == query_side(query)
    system: dict[str, Any] = {"rule": rule, "calibration": calibration, "trials": trials}
    blocks = ranked_lists(features, protocol, settings=settings, query=query, **system)
    found = mean_figures(
        blocks, settings, lambda lists, name: _bias_figures(lists, name, own[lists.order], k)
    )
    return BiasReport(
        tuple(ModalityBias(name, query, k, *means.tolist()) for name, means in found.items())
    )


def _bias_figures(
    lists: RankedLists, setting: str, own: NDArray[np.bool_], k: int
) -> NDArray[np.float64]:
    """float64 [6, B], the last six fields of ``ModalityBias`` per query."""
    listed, matches = lists.listed[setting], lists.matches[setting]
    top = listed & (listed.cumsum(axis=1, dtype=np.int32) <= k)
    valid = matches.any(axis=1)
    share, expected = (
        np.where(valid, (part & own).sum(axis=1) / np.maximum(part.sum(axis=1), 1), np.nan)
        for part in (top, listed)
    )
    firsts, precisions = [], []
    for kept in (matches & own, matches & ~own):
        # Ranks in the whole list; precision with the other modality's positives taken out.
        firsts.append(precision_and_first(listed, kept)[1])
        precisions.append(precision_and_first((listed & ~matches) | kept, kept)[0])
    return np.stack([share, expected, *firsts, *precisions])


@dataclass(frozen=True, eq=False)
class PairTable:
    """mAP and rank 1 by group of the query (rows) and of the gallery (columns).

    Attributes:
        groups: Names of the K groups.
        setting: Setting whose removals hold.
        mAP: float64 [K, K], NaN where no query has a positive.
        r1: float64 [K, K], the same.
        queries: float64 [K, K], queries with a positive, mean over the trials.
    """

    groups: tuple[str, ...]
    setting: str
    mAP: NDArray[np.float64]
    r1: NDArray[np.float64]
    queries: NDArray[np.float64]

    def to_markdown(self) -> str:
        """A Markdown table of mAP / R1 in percent."""
        rows = zip(self.groups, self.mAP.tolist(), self.r1.tolist(), strict=True)
        body = [
            [name, *(f"{percent(ap)} / {percent(r1)}" for ap, r1 in zip(*pairs, strict=True))]
            for name, *pairs in rows
        ]
        return markdown_table([f"{self.setting}, mAP / R1: query \\ gallery", *self.groups], body)

    def to_json(self) -> str:
        """JSON in full precision; NaN becomes null."""
        figures = {name: getattr(self, name).tolist() for name in ("mAP", "r1", "queries")}
        return to_json({"groups": self.groups, "setting": self.setting, **figures})


def modality_pairs(
    features: FeatureSet,
    protocol: str | Protocol,
    *,
    setting: str = "mix",
    rule: str = "mixer",
    calibration: str | None = None,
    trials: int | None = None,
) -> PairTable:
    """Tabulates mAP and R1 by modality of query and gallery.

    Each query's list under the setting is cut down to one modality of the gallery.

    Args:
        features: Images of both modalities.
        protocol: Protocol or its id.
        setting: Whose removals hold; under ``mix`` nothing but the query itself is removed.
        rule: Rule of ``scores``.
        calibration: Calibration of ``scores``.
        trials: Number of gallery draws; None: what the protocol says.

    Returns:
        The 2 x 2 table.

    Raises:
        MixERValueError: An unknown name, or features that do not fit.
    """
    options = {"rule": rule, "calibration": calibration, "trials": trials}
    modality = features.modality.cpu().numpy()
    return _pairs(features, protocol, setting, modality, ("visible", "infrared"), options)


def camera_pairs(
    features: FeatureSet,
    protocol: str | Protocol,
    *,
    setting: str = "mix",
    rule: str = "mixer",
    calibration: str | None = None,
    trials: int | None = None,
) -> PairTable:
    """Tabulates mAP and R1 by camera of query and gallery; otherwise as ``modality_pairs``.

    A camera that sees both modalities counts as two. Groups are named ``camera 3, infrared``.
    """
    groups = find_groups(features.modality.cpu().numpy(), features.cams.cpu().numpy())
    names = tuple(
        f"camera {camera}, {Modality(side).name.lower()}"
        for camera, side in zip(groups.camera.tolist(), groups.modality.tolist(), strict=True)
    )
    options = {"rule": rule, "calibration": calibration, "trials": trials}
    return _pairs(features, protocol, setting, groups.of_row, names, options)


def _pairs(
    features: FeatureSet,
    protocol: str | Protocol,
    setting: str,
    group: NDArray[np.int64],
    names: tuple[str, ...],
    options: dict[str, Any],
) -> PairTable:
    count = len(names)
    # Sums over the queries by trial, of [AP, R1, valid queries] per pair of groups.
    sums: dict[int, NDArray[np.float64]] = defaultdict(lambda: np.zeros((3, count, count)))
    sides = [name for name, side in SIDES.items() if (features.modality == side).any()]
    for query in sides:
        for lists in ranked_lists(features, protocol, settings=(setting,), query=query, **options):
            listed, matches = lists.listed[setting], lists.matches[setting]
            item, query_group = group[lists.order], group[lists.queries]
            for other in range(count):
                kept = item == other
                ap, first = precision_and_first(listed & kept, matches & kept)
                valid = ~np.isnan(ap)
                for figure, values in enumerate((ap, first == 1, valid)):
                    weights = np.where(valid, values, 0.0)
                    sums[lists.trial][figure, :, other] += np.bincount(query_group, weights, count)
    totals = np.stack(list(sums.values()))
    valid = totals[:, 2]
    undefined = np.full(valid.shape, np.nan)
    ap, r1 = (
        nan_mean(np.divide(totals[:, i], valid, out=undefined.copy(), where=valid > 0), axis=0)
        for i in (0, 1)
    )
    return PairTable(names, setting, ap, r1, valid.mean(axis=0))
