"""Compares two systems on the same queries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.results import ResultRow, Results
from mixer_plugin.evaluation.statistics import SEED, PairedDifference, holm, paired_bootstrap
from mixer_plugin.evaluation.tables import markdown_table, percent, to_json

ALPHA = 0.05


@dataclass(frozen=True)
class ComparedRow:
    """One setting of a comparison.

    Attributes:
        setting: Setting.
        query: ``infrared`` or ``visible``.
        difference: Mean difference of the queries' average precision, its interval and p value.
        p_adjusted: The p value after Holm's correction over the rows of the comparison.
        equal: Whether all queries have exactly the same average precision in both.
    """

    setting: str
    query: str
    difference: PairedDifference
    p_adjusted: float
    equal: bool

    @property
    def gain(self) -> bool:
        """Whether a is shown to be better: interval above zero and adjusted p at most 0.05."""
        return self.difference.low > 0 and self.p_adjusted <= ALPHA


@dataclass(frozen=True)
class Comparison:
    """Differences a − b in mean average precision, by setting and query modality.

    Attributes:
        a: Rule and calibration of the one system.
        b: Of the other.
        rows: One per setting and query modality.
    """

    a: str
    b: str
    rows: tuple[ComparedRow, ...]

    def get(self, setting: str, query: str) -> ComparedRow:
        """The row of a setting and a query modality; ``MixERValueError`` if there is none."""
        for row in self.rows:
            if (row.setting, row.query) == (setting, query):
                return row
        known = ", ".join(f"({row.setting}, {row.query})" for row in self.rows)
        raise MixERValueError(f"No row ({setting}, {query}); there are (setting, query): {known}.")

    def to_markdown(self) -> str:
        """A Markdown table, differences in points (percent)."""
        body = []
        for row in self.rows:
            found = row.difference
            bounds = f"{percent(found.low, signed=True)} to {percent(found.high, signed=True)}"
            mean = "0 (exactly)" if row.equal else percent(found.mean, signed=True)
            figures = [mean, bounds, _p(found.p), _p(row.p_adjusted)]
            counts = [str(found.queries), str(found.identities)]
            body.append([row.setting, row.query, *figures, *counts])
        head = ["setting", "query", f"mAP: {self.a} − {self.b}", "95 % interval", "p", "p (Holm)"]
        return markdown_table([*head, "queries", "identities"], body, labels=2)

    def to_json(self) -> str:
        """JSON in full precision; NaN becomes null."""
        return to_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """All figures, one flat dictionary per row."""
        rows = []
        for row in self.rows:
            flat = {"setting": row.setting, "query": row.query, **asdict(row.difference)}
            rows.append(flat | {"p_adjusted": row.p_adjusted, "equal": row.equal})
        return {"a": self.a, "b": self.b, "rows": rows}


def compare(
    a: Results,
    b: Results,
    *,
    ids: Tensor | NDArray[np.int64],
    rule_a: str = "mixer",
    rule_b: str = "erased",
    calibration_a: str | None = None,
    calibration_b: str | None = None,
    resamples: int = 10_000,
    seed: int = SEED,
) -> Comparison:
    """Compares two systems in every setting, paired by query.

    Each query's average precision (mean over the trials) is compared with its own in the other
    system; identities are resampled whole, and Holm's correction is over all rows.

    Args:
        a: Results of one system.
        b: Of the other, or the same again to compare two rules.
        ids: int64 [N], the identities of the feature set that was evaluated.
        rule_a: Rule of a.
        rule_b: Rule of b.
        calibration_a: Calibration of a.
        calibration_b: Calibration of b.
        resamples: Resamples of the bootstrap.
        seed: Its seed.

    Returns:
        A row per setting and query modality.

    Raises:
        MixERValueError: A rule or calibration was not evaluated, or the two were not asked the
            same: other settings, protocols, trials or queries.
    """
    names = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    left, right = _rows(a, rule_a, calibration_a, "a"), _rows(b, rule_b, calibration_b, "b")
    if left.keys() != right.keys():
        raise MixERValueError(
            f"a has (setting, query) {sorted(left)}, b has {sorted(right)}; evaluate both with "
            "the same settings and query."
        )
    found: dict[tuple[str, str], tuple[PairedDifference, bool]] = {}
    for place, row in left.items():
        row_b = right[place]
        if (row.protocol, row.trials) != (row_b.protocol, row_b.trials):
            raise MixERValueError(
                f"a was evaluated under {row.protocol!r} with {row.trials} trials, b under "
                f"{row_b.protocol!r} with {row_b.trials}; evaluate both under the same protocol."
            )
        (rows, ap), (rows_b, ap_b) = a.per_query_ap[row.key], b.per_query_ap[row_b.key]
        _check_queries(rows, rows_b, names, place)
        order, order_b = np.argsort(rows), np.argsort(rows_b)
        ap, ap_b, clusters = ap[order], ap_b[order_b], names[rows[order]]
        difference = paired_bootstrap(ap, ap_b, clusters, resamples=resamples, seed=seed)
        equal = difference.queries > 0 and np.array_equal(ap, ap_b, equal_nan=True)
        found[place] = difference, bool(equal)
    adjusted = holm([difference.p for difference, _ in found.values()])
    return Comparison(
        _label(rule_a, calibration_a),
        _label(rule_b, calibration_b),
        tuple(
            ComparedRow(*place, difference, p, equal)
            for (place, (difference, equal)), p in zip(found.items(), adjusted, strict=True)
        ),
    )


def _rows(
    results: Results, rule: str, calibration: str | None, which: str
) -> dict[tuple[str, str], ResultRow]:
    """(setting, query) → the row of a rule and calibration."""
    held = [row for row in results.rows if row.key in results.per_query_ap]
    kept = {
        (row.setting, row.query): row
        for row in held
        if (row.rule, row.calibration) == (rule, calibration)
    }
    if not kept:
        known = sorted({_label(row.rule, row.calibration) for row in held})
        raise MixERValueError(
            f"{which} holds no row of {_label(rule, calibration)}; it holds: {', '.join(known)}."
        )
    return kept


def _check_queries(
    rows: NDArray[np.int64],
    rows_b: NDArray[np.int64],
    ids: NDArray[np.int64],
    place: tuple[str, str],
) -> None:
    if not np.array_equal(np.sort(rows), np.sort(rows_b)):
        alone = np.setxor1d(rows, rows_b)
        raise MixERValueError(
            f"a and b were not asked the same queries in {place}: {len(rows)} and {len(rows_b)}, "
            f"row {alone[0]} only in one of them; extract features of the same images, in the "
            "same order, with both systems."
        )
    last = rows.max(initial=-1)
    if ids.ndim != 1 or last >= len(ids):
        raise MixERValueError(
            f"ids must hold one identity per image, the queries go up to row {last}; got "
            f"shape {ids.shape}: pass features.ids of the set that was evaluated."
        )


def _label(rule: str, calibration: str | None) -> str:
    return rule if calibration is None else f"{rule} ({calibration})"


def _p(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"
