"""Results of an evaluation, and their forms: Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.per_query import QueryRow
from mixer_plugin.evaluation.tables import csv_table, latex_table, markdown_table, percent, to_json
from mixer_plugin.matching.rules import System

# (setting, rule, query, calibration)
Key = tuple[str, str, str, str | None]
_PERCENT = ("r1", "r5", "r10", "r20", "mAP", "mINP")


@dataclass(frozen=True)
class ResultRow:
    """One cell of a table. Metrics are fractions in [0, 1], means over the trials.

    Attributes:
        protocol: Id of the protocol.
        setting: Setting.
        rule: Rule of the score.
        query: ``infrared`` or ``visible``.
        calibration: Calibration of the score, or None.
        r1: Share of the valid queries whose first positive is at rank 1, by the protocol's CMC.
        r5: The same at rank 5 or before.
        r10: The same at rank 10 or before.
        r20: The same at rank 20 or before.
        mAP: Mean average precision.
        mINP: Mean inverse negative penalty.
        r1_std: Standard deviation over the trials (n - 1), NaN with one trial; not an interval.
        mAP_std: The same of mAP.
        mINP_std: The same of mINP.
        mAP_ci: 95 % interval of mAP over identities (bootstrap of the query identities).
        mAP_optimistic: mAP with every positive before the items it ties with.
        mAP_pessimistic: mAP with every positive after them.
        queries_valid: Queries with a positive, mean over the trials.
        queries_dropped: Queries without, mean over the trials.
        gallery_size: Items of the setting's gallery before anything is removed for a query, mean
            over the trials.
        mean_positives: Positives per valid query, mean over queries and trials.
        trials: Number of trials.
        rerank: How scores were re-ranked, with options and number of queries, or None.
    """

    protocol: str
    setting: str
    rule: str
    query: str
    calibration: str | None
    r1: float
    r5: float
    r10: float
    r20: float
    mAP: float
    mINP: float
    r1_std: float
    mAP_std: float
    mINP_std: float
    mAP_ci: tuple[float, float]
    mAP_optimistic: float
    mAP_pessimistic: float
    queries_valid: float
    queries_dropped: float
    gallery_size: float
    mean_positives: float
    trials: int
    rerank: str | None = None

    @property
    def key(self) -> Key:
        """(setting, rule, query, calibration)."""
        return self.setting, self.rule, self.query, self.calibration


@dataclass(frozen=True)
class Results:
    """Rows of an evaluation and the contract they were made under.

    Attributes:
        rows: One per setting, rule, query modality and calibration.
        contract: What the protocol says of itself.
        per_query_ap: By (setting, rule, query, calibration): rows of the queries in the feature
            set, int64 [Q], and their average precision, float64 [Q], mean over the trials in which
            they have a positive, NaN if in none. For paired tests.
        first_hit: By the same keys, rank of each query's first positive, float64 [Q], mean over the
            same trials.
        paths: Of the images of the features, where those have paths.
        cmc: By the same keys, share of the queries with a positive at ranks 1 to 20 or before,
            float64 [20], mean over the trials.
    """

    rows: list[ResultRow]
    contract: str
    per_query_ap: dict[Key, tuple[NDArray[np.int64], NDArray[np.float64]]]
    first_hit: dict[Key, NDArray[np.float64]] = field(default_factory=dict)
    paths: Sequence[str] | None = None
    cmc: dict[Key, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def per_query(self) -> list[QueryRow]:
        """A row for each setting, rule, calibration and query; empty of a mean over splits."""
        return [
            QueryRow(
                row=int(row),
                path=None if self.paths is None else self.paths[row],
                query=query,
                setting=setting,
                rule=rule,
                calibration=calibration,
                ap=float(ap),
                first_hit=float(hit),
            )
            for (setting, rule, query, calibration), hits in self.first_hit.items()
            for row, ap, hit in zip(
                *self.per_query_ap[setting, rule, query, calibration], hits, strict=True
            )
        ]

    def get(
        self, setting: str, rule: str, *, query: str | None = None, calibration: str | None = None
    ) -> ResultRow:
        """The row of a setting and rule.

        Args:
            setting: Setting.
            rule: Rule.
            query: ``infrared`` or ``visible``; None: the one that was evaluated.
            calibration: Calibration; None: the row without one.

        Returns:
            The row.

        Raises:
            MixERValueError: There is no such row, or there are two since ``query`` is left open.
        """
        found = [
            row
            for row in self.rows
            if (row.setting, row.rule, row.calibration) == (setting, rule, calibration)
            and query in (None, row.query)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise MixERValueError("Both query modalities were evaluated; say query='infrared'.")
        known = ", ".join(str(row.key) for row in self.rows)
        raise MixERValueError(
            f"No row {(setting, rule, query, calibration)}; there are (setting, rule, query, "
            f"calibration): {known}."
        )

    def select(self, systems: Collection[System]) -> Results:
        """The rows of some (rule, calibration) pairs."""
        rows = [row for row in self.rows if (row.rule, row.calibration) in systems]
        return self.of_rows(rows)

    def of_rows(self, rows: list[ResultRow]) -> Results:
        """These rows alone, with what is known of their queries."""
        keys = {row.key for row in rows}
        kept = {key: self.per_query_ap[key] for key in self.per_query_ap if key in keys}
        hits = {key: self.first_hit[key] for key in self.first_hit if key in keys}
        curves = {key: self.cmc[key] for key in self.cmc if key in keys}
        return replace(self, rows=rows, per_query_ap=kept, first_hit=hits, cmc=curves)

    def to_markdown(self) -> str:
        """A Markdown table, metrics in percent."""
        table = markdown_table(*self._table("–"), labels=4)
        missing = self.missing_controls()
        if missing:
            table += (
                f"\nNot in this table: {', '.join(missing)}. Without these controls a gain in a "
                "mixed gallery may be nothing but calibration between same- and cross-modality "
                "scores.\n"
            )
        return table

    def missing_controls(self) -> list[str]:
        """The controls that a fused rule in a mixed gallery needs beside it and lacks here."""
        mixed = [row for row in self.rows if row.setting.startswith("mix")]
        fused = [row for row in mixed if row.rule not in ("erased", "related")]
        if not fused:
            return []
        shown = {(row.rule, row.calibration) for row in mixed}
        needed = {
            "erased": ("erased", None),
            "erased with znorm": ("erased", "znorm"),
            "erased with center": ("erased", "center"),
            "mixer-shuffled": ("mixer-shuffled", None),
        }
        if any(row.rerank for row in fused):  # re-ranked scores take no znorm
            del needed["erased with znorm"]
        return [name for name, control in needed.items() if control not in shown]

    def to_latex(self) -> str:
        """A LaTeX ``tabular`` (with booktabs rules), metrics in percent."""
        return latex_table(*self._table("--"), labels=4)

    def _table(self, dash: str) -> tuple[list[str], list[list[str]]]:
        head = ["setting", "rule", "query", "calibration", "R1", "R5", "R10", "R20", "mAP"]
        head += ["mAP interval", "mINP", "valid", "dropped", "gallery"]
        reranked = any(row.rerank for row in self.rows)
        head += ["re-ranking"] if reranked else []
        body = []
        for row in self.rows:
            shares = {name: percent(getattr(row, name)) for name in _PERCENT}
            interval = dash.join(percent(bound) for bound in row.mAP_ci)
            counts = [row.queries_valid, row.queries_dropped, row.gallery_size]
            body.append(
                [row.setting, row.rule, row.query, row.calibration or "none"]
                + [shares[name] for name in ("r1", "r5", "r10", "r20", "mAP")]
                + [interval, shares["mINP"], *(f"{count:.10g}" for count in counts)]
                + ([row.rerank or "none"] if reranked else [])
            )
        return head, body

    def to_csv(self) -> str:
        """CSV of all fields in full precision; ``mAP_ci`` as two columns."""
        return csv_table([_flat(row) for row in self.rows])

    def to_json(self) -> str:
        """JSON of the contract and all rows in full precision; NaN becomes null."""
        rows = [_flat(row) for row in self.rows]
        return to_json({"contract": self.contract.split("\n"), "rows": rows})


def _flat(row: ResultRow) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for each in fields(row):
        value = getattr(row, each.name)
        if each.name == "mAP_ci":
            values["mAP_ci_low"], values["mAP_ci_high"] = value
        else:
            values[each.name] = value
    return values


def trial_std(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Standard deviation over trials (n - 1); NaN with fewer than two."""
    known = np.asarray(values, dtype=np.float64)
    return float(np.std(known, ddof=1)) if len(known) > 1 else float("nan")
