"""Markdown and JSON of small tables of figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]], labels: int = 1) -> str:
    """A Markdown table; the first ``labels`` columns are words, the others numbers."""
    rule = ["---"] * labels + ["---:"] * (len(head) - labels)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body]) + "\n"


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
