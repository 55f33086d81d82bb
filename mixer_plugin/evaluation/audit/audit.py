"""Recomputes a sample of an evaluation from the definitions and compares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.audit.reference import (
    Labels,
    Measures,
    is_listed,
    literal_scores,
    measure,
    read_labels_of,
)
from mixer_plugin.evaluation.protocols.registry import Protocol, as_protocol
from mixer_plugin.evaluation.results import Key, ResultRow, Results
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching import scores
from mixer_plugin.matching.rules import RULES
from mixer_plugin.matching.shuffle import shuffle_first

_EQUAL = 1e-9
_BLOCK = 64
_CUTS = (1, 5, 10, 20)


@dataclass(frozen=True)
class AuditRow:
    """The findings of the audit for one row of the results.

    Attributes:
        key: (setting, rule, query, calibration).
        queries: Queries recomputed.
        equal: Of these, average precision equal to 1e-9.
        near_ties: Otherwise, but as it is when scores change by no more than float32 rounding.
        wrong: Neither.
        largest: Largest absolute difference of average precision.
        score_error: Largest absolute difference of a float32 score from its definition in float64.
        scores_wrong: Scores that differ by more than rounding explains.
        figures_wrong: The row's means (R1 …, mAP, mINP, counts) that are wrong. They are compared
            when every query is in the sample, and empty otherwise.
    """

    key: Key
    queries: int
    equal: int
    near_ties: int
    wrong: int
    largest: float
    score_error: float
    scores_wrong: int
    figures_wrong: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.wrong or self.scores_wrong or self.figures_wrong)


@dataclass(frozen=True)
class Audit:
    """The findings of an audit; ``str()`` sums them up.

    Attributes:
        rows: One per row of the results.
        complete: Whether every query was recomputed, so that the means were compared too.
        seed: Of the sample.
    """

    rows: tuple[AuditRow, ...]
    complete: bool
    seed: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong in any row."""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        count = sum(row.queries for row in self.rows)
        near = sum(row.near_ties for row in self.rows)
        largest = max(row.largest for row in self.rows)
        what = "every query" if self.complete else f"a sample (seed {self.seed})"
        lines = [
            f"audit {'passed' if self.ok else 'FAILED'}: {count} lists of {what} ranked again one "
            f"by one from the definitions, average precision compared in {len(self.rows)} rows"
            + (", and their means" if self.complete else "")
            + f"; largest difference {largest:.2g}, {near} lists differ by near ties; scores "
            f"differ from float64 by up to {max(row.score_error for row in self.rows):.2g}"
        ]
        lines += [f"  wrong: {_words(row)}" for row in self.rows if not row.ok]
        return "\n".join(lines)


def audit(
    features: FeatureSet,
    protocol: str | Protocol,
    results: Results,
    *,
    queries: int = 64,
    seed: int = 0,
) -> Audit:
    """Recomputes a random sample of queries, list by list, and compares with the results.

    Shared with ``evaluate`` are the protocol's draws and queries, and the products behind
    ``scores``. Scores are held against their definitions in float64; removals, ranking (a sort by
    falling score, then row) and metrics are implemented a second time in ``audit.reference``.

    Args:
        features: What was evaluated.
        protocol: Protocol or its id, as ``evaluate`` was given it.
        results: What ``evaluate`` returned, without re-ranking.
        queries: How many queries of each modality; where there are no more, the means over all
            queries are compared too.
        seed: Of the sample.

    Returns:
        The findings; ``ok`` is the verdict.

    Raises:
        MixERValueError: ``queries`` is not positive, or the results are re-ranked, of another
            protocol, of other queries or of none.
    """
    if queries < 1:
        raise MixERValueError(f"An audit needs at least one query, got queries={queries}.")
    protocol = as_protocol(protocol)
    _check(results, protocol)
    draws = protocol.draws(features, results.rows[0].trials)
    labels = read_labels_of(features)
    found: dict[Key, _Row] = {}
    complete = True
    for side in Modality:
        rows = [row for row in results.rows if row.query == side.name.lower()]
        if not rows:
            continue
        query_rows = protocol.queries(features, side)
        for row in rows:
            if not np.array_equal(results.per_query_ap[row.key][0], query_rows):
                raise MixERValueError(
                    f"The results in {row.key} are not of the {len(query_rows)} queries that "
                    f"{protocol.id!r} finds in these features; audit with the same features."
                )
        size = min(queries, len(query_rows))
        complete &= size == len(query_rows)
        drawn = np.random.default_rng(seed).choice(len(query_rows), size, replace=False)
        for row in rows:
            found[row.key] = _Row(results.per_query_ap[row.key][1])
        for start in range(0, size, _BLOCK):
            picks = np.sort(drawn)[start : start + _BLOCK]
            _recompute(found, features, protocol, labels, draws, query_rows, picks, side)
    by_key = {row.key: row for row in results.rows}
    return Audit(
        tuple(_judge(key, row, by_key[key], complete) for key, row in found.items()), complete, seed
    )


_Trials = list[Measures | None]


@dataclass
class _Row:
    """The figures of one row of the results, collected query by query.

    Attributes:
        ap: float64 [Q], as reported, of all queries.
        lists: Of each query recomputed, its place, and its metrics in each trial: with rounding
            against it, as scored, and with rounding for it; the three are one object where they
            were reported as scored.
        score_error: Largest difference of a score.
        scores_wrong: Number of wrong scores.
    """

    ap: NDArray[np.float64]
    lists: list[tuple[int, _Trials, _Trials, _Trials]] = field(default_factory=list)
    score_error: float = 0.0
    scores_wrong: int = 0


def _check(results: Results, protocol: Protocol) -> None:
    if not results.rows:
        raise MixERValueError("The results hold no row to audit.")
    for row in results.rows:
        if row.rerank is not None:
            raise MixERValueError(
                "An audit ranks by the scores themselves and knows nothing of re-ranking, but the "
                f"results are re-ranked ({row.rerank}); evaluate without rerank."
            )
        if row.protocol != protocol.id:
            raise MixERValueError(
                f"The results are of protocol {row.protocol!r}, the audit was given "
                f"{protocol.id!r}; give the protocol that was evaluated."
            )


def _recompute(
    found: dict[Key, _Row],
    features: FeatureSet,
    protocol: Protocol,
    labels: Labels,
    draws: Sequence[NDArray[np.int64]],
    query_rows: NDArray[np.int64],
    picks: NDArray[np.int64],
    side: Modality,
) -> None:
    """Adds the measures of some queries, ``query_rows[picks]``, to their rows."""
    union = np.unique(np.concatenate(draws))
    items = union.tolist()
    in_draw = [np.isin(union, draw).tolist() for draw in draws]
    rows = query_rows[picks]
    keys = [key for key in found if key[2] == side.name.lower()]
    settings = list(dict.fromkeys(key[0] for key in keys))
    listed = {
        (setting, query): [is_listed(setting, query, item, labels, protocol) for item in items]
        for setting in settings
        for query in rows.tolist()
    }
    names = [labels.ids[item] for item in items]

    def trials(order: list[int], stays: list[bool], own: int) -> _Trials:
        """Metrics of an order, restricted to each draw and the setting."""
        lists = [[names[i] for i in order if drawn[i] and stays[i]] for drawn in in_draw]
        return [measure(ranked, own, protocol.cmc == "dedup") for ranked in lists]

    for rule, calibration in dict.fromkeys((key[1], key[3]) for key in keys):
        made, slack, error, wrong = _scores(features, rows, union, rule, calibration)
        mine = [key for key in keys if (key[1], key[3]) == (rule, calibration)]
        for key in mine:
            found[key].score_error = max(found[key].score_error, error)
            found[key].scores_wrong += wrong
        for score, off, pick, query in zip(made, slack, picks.tolist(), rows.tolist(), strict=True):
            own = labels.ids[query]
            # For a positive against the others: its score higher, theirs lower.
            toward = np.where(np.asarray(names) == own, off, -off)
            order = _order(score)
            for key in mine:
                stays = listed[key[0], query]
                low = exact = high = trials(order, stays, own)
                if not _equal(float(found[key].ap[pick]), _mean_ap(exact)):
                    low, high = (
                        trials(_order(moved), stays, own)
                        for moved in (score - toward, score + toward)
                    )
                found[key].lists.append((pick, low, exact, high))


def _order(score: NDArray[np.float64]) -> list[int]:
    # Stable, also in reverse: of equal scores the earlier row comes first.
    return sorted(range(len(score)), key=score.tolist().__getitem__, reverse=True)


def _scores(
    features: FeatureSet,
    rows: NDArray[np.int64],
    union: NDArray[np.int64],
    rule: str,
    calibration: str | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, int]:
    """Scores of ``matching.scores``, their tolerance [Q, G], largest error and number wrong."""
    features, rule = shuffle_first(features, rule)
    place = {row: i for i, row in enumerate(union.tolist())}
    own = [place.get(row, -1) for row in rows.tolist()]
    given = scores(features[rows], features[union], rule, calibration, self_index=own)
    made = given.cpu().double().numpy()
    exact, slack = literal_scores(features, rows, union, RULES[rule], calibration)
    difference = np.abs(made - exact)
    return made, slack, float(difference.max()), int((~(difference <= slack)).sum())


def _judge(key: Key, row: _Row, reported: ResultRow, complete: bool) -> AuditRow:
    grades: Counter[str] = Counter()
    largest = 0.0
    for pick, *sides in row.lists:
        given = float(row.ap[pick])
        low, exact, high = (_mean_ap(side) for side in sides)
        grades[_grade(given, low, exact, high)] += 1
        if not (math.isnan(given) and math.isnan(exact)):
            difference = abs(given - exact)
            largest = max(largest, math.inf if math.isnan(difference) else difference)
    wrong = []
    if complete:
        _, *parts = zip(*row.lists, strict=True)
        figures = [_figures(part) for part in parts]
        wrong = [
            name
            for name in figures[0]
            if _grade(getattr(reported, name), *(part[name] for part in figures)) == "wrong"
        ]
    return AuditRow(
        key=key,
        queries=len(row.lists),
        equal=grades["equal"],
        near_ties=grades["near"],
        wrong=grades["wrong"],
        largest=largest,
        score_error=row.score_error,
        scores_wrong=row.scores_wrong,
        figures_wrong=tuple(wrong),
    )


def _grade(given: float, low: float, exact: float, high: float) -> str:
    if _equal(given, exact):
        return "equal"
    return "near" if low - _EQUAL <= given <= high + _EQUAL else "wrong"


def _figures(queries: Sequence[_Trials]) -> dict[str, float]:
    """Means over the queries of each trial, then over the trials."""
    by_trial = [[one for one in trial if one is not None] for trial in zip(*queries, strict=True)]
    full = [trial for trial in by_trial if trial]
    figures = {
        f"r{cut}": _mean([_mean([one.first <= cut for one in trial]) for trial in full])
        for cut in _CUTS
    }
    figures["mAP"] = _mean([_mean([one.ap for one in trial]) for trial in full])
    figures["mINP"] = _mean([_mean([one.inp for one in trial]) for trial in full])
    figures["queries_valid"] = _mean([len(trial) for trial in by_trial])
    figures["mean_positives"] = _mean([one.positives for trial in by_trial for one in trial])
    return figures


def _mean_ap(trials: _Trials) -> float:
    return _mean([one.ap for one in trials if one is not None])


def _equal(one: float, two: float) -> bool:
    return abs(one - two) <= _EQUAL or (math.isnan(one) and math.isnan(two))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _words(row: AuditRow) -> str:
    setting, rule, query, calibration = row.key
    parts = [f"{row.wrong} of {row.queries} lists (up to {row.largest:.2g})"] if row.wrong else []
    if row.scores_wrong:
        parts.append(f"{row.scores_wrong} scores (up to {row.score_error:.2g})")
    parts += row.figures_wrong
    return f"{setting}, {rule}, {query}, {calibration or 'none'}: {', '.join(parts)}"
