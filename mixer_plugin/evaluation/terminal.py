"""An evaluation on a terminal: mAP and R1 of every system and setting, in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from mixer_plugin.evaluation.results import ResultRow, Results
from mixer_plugin.evaluation.tables import aligned_table, percent
from mixer_plugin.matching.rules import system_name

WIDTH = 80
_FIGURES = (("mAP, %", "mAP"), ("R1, %", "r1"))


def to_text(results: Results) -> str:
    """A block of lines for each query modality: systems by settings, mAP and then R1.

    Args:
        results: of an evaluation, or a mean over splits.

    Returns:
        Lines of at most 80 columns where names of systems take at most 27. R5 to R20, mINP,
        intervals and the contract are left to the other forms.
    """
    parts = [_block(results, query) for query in dict.fromkeys(row.query for row in results.rows)]
    missing = results.missing_controls()
    if missing:
        parts.append(
            _wrapped(f"Not in this table, though a gain needs them: {', '.join(missing)}.")
        )
    return "\n\n".join(parts) + "\n"


def _block(results: Results, query: str) -> str:
    rows = [row for row in results.rows if row.query == query]
    settings = list(dict.fromkeys(row.setting for row in rows))
    systems = list(dict.fromkeys((row.rule, row.calibration, row.rerank) for row in rows))
    cells = {(row.rule, row.calibration, row.rerank, row.setting): row for row in rows}
    lines = [_wrapped(f"{rows[0].protocol}, {counts(rows)}")]
    for title, figure in _FIGURES:
        body = [
            [
                _named(*system),
                *(_cell(cells.get((*system, setting)), figure) for setting in settings),
            ]
            for system in systems
        ]
        lines += ["", aligned_table([title, *settings], body)]
    return "\n".join(lines)


def _named(rule: str, calibration: str | None, rerank: str | None) -> str:
    return system_name((rule, calibration)) + ", re-ranked" * bool(rerank)


def _cell(row: ResultRow | None, figure: str) -> str:
    return "" if row is None else percent(getattr(row, figure))


def counts(rows: Sequence[ResultRow]) -> str:
    """``320 infrared queries, galleries of 206 to 412 images, mean of 10 draws``.

    Behind the queries, where there are such: ``(4 without a positive left out)``.
    """
    valid, dropped, sizes = (
        _span([getattr(row, name) for row in rows])
        for name in ("queries_valid", "queries_dropped", "gallery_size")
    )
    text = f"{valid} {rows[0].query} queries"
    if dropped != "0":
        text += f" ({dropped} without a positive left out)"
    text += f", galleries of {sizes} images"
    return text + (f", mean of {rows[0].trials} draws" if rows[0].trials > 1 else "")


def _span(values: Sequence[float]) -> str:
    low, high = (f"{value:.10g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)
