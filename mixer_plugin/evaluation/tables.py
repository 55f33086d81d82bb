"""The forms of tables of figures: Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

_LATEX = str.maketrans(
    {"%": r"\%", "_": r"\_", "±": r"$\pm$", "−": r"$-$", "→": r"$\to$", "—": "---"}
)


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]], labels: int = 1) -> str:
    """A Markdown table; the first ``labels`` columns are words, the others numbers."""
    rule = ["---"] * labels + ["---:"] * (len(head) - labels)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body]) + "\n"


def aligned_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Lines for a terminal: the first column is words, the others numbers."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    return "\n".join(
        "  ".join(
            [f"{cells[0]:{widths[0]}}"]
            + [f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True)]
        ).rstrip()
        for cells in (head, *body)
    )


def latex_table(
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    labels: int = 1,
    *,
    rules: tuple[str, str, str] = (r"\toprule", r"\midrule", r"\bottomrule"),
) -> str:
    """A LaTeX ``tabular`` with rules above its head, below it and at the end; "" is no rule."""
    first, *rest = (" & ".join(line).translate(_LATEX) + r" \\" for line in (head, *body))
    columns = "l" * labels + "r" * (len(head) - labels)
    lines = [rf"\begin{{tabular}}{{{columns}}}", rules[0], first, rules[1], *rest, rules[2]]
    return "\n".join(filter(None, [*lines, r"\end{tabular}"])) + "\n"


def csv_table(rows: Sequence[Mapping[str, Any]], *, end: str = "\r\n") -> str:
    """CSV of rows with the columns of the first, in full precision; empty without a row."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def percent(value: float, *, signed: bool = False) -> str:
    """A fraction in percent, – where it is NaN."""
    return "–" if math.isnan(value) else f"{100 * value:{'+' if signed else ''}.2f}"


def to_json(content: Any) -> str:
    """JSON in full precision; NaN becomes null."""
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
