"""An evaluation query by query: which were found, and which were not."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.evaluation.tables import csv_table, percent


@dataclass(frozen=True)
class QueryRow:
    """How one query did in one setting under one rule.

    Attributes:
        row: Of the query in the features.
        path: Of its image; None where the features have no paths.
        query: ``infrared`` or ``visible``.
        setting: Setting.
        rule: Rule of the score.
        calibration: Calibration of the score, or None.
        ap: Average precision in [0, 1], mean over the trials that hold a positive; NaN if none do.
        first_hit: Rank of the first positive by the protocol's CMC, from 1; mean over those trials.
    """

    row: int
    path: str | None
    query: str
    setting: str
    rule: str
    calibration: str | None
    ap: float
    first_hit: float


def first_hits(first: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean rank of the first positive over trials, float64 [Q], of int64 [T, Q]; 0 is none."""
    count = (first > 0).sum(axis=0)
    return np.divide(first.sum(axis=0), count, out=np.full(len(count), np.nan), where=count > 0)


def worst(rows: Sequence[QueryRow], count: int) -> list[QueryRow]:
    """The rows of lowest AP, the lowest first; equal ones with the later first hit first.

    Rows without a positive are left out.
    """
    valid = [row for row in rows if not math.isnan(row.ap)]
    return sorted(valid, key=lambda row: (row.ap, -row.first_hit, row.row))[:count]


def cells(rows: Sequence[QueryRow]) -> tuple[list[str], list[list[str]]]:
    """Head and body of a table for people: the query, its AP in percent, its first hit.

    Paths begin below the folder that holds all of them.
    """
    names = iter(short_names([row.path for row in rows if row.path]))
    body = [
        [
            next(names) if row.path else f"row {row.row}",
            row.query,
            percent(row.ap),
            f"{row.first_hit:.10g}",
        ]
        for row in rows
    ]
    return ["image", "query", "AP, %", "first hit"], body


def short_names(paths: Sequence[str]) -> list[str]:
    """Paths, each from below the folder that holds all of them."""
    folders = [set(Path(path).parents) for path in paths]
    common = set.intersection(*folders) if folders else set()
    cut = max((len(folder.parts) for folder in common), default=0)
    return ["/".join(Path(path).parts[cut:]) for path in paths]


def to_csv(rows: Sequence[QueryRow]) -> str:
    """CSV of all fields in full precision."""
    return csv_table([vars(row) for row in rows])


def to_json(rows: Sequence[QueryRow]) -> str:
    """JSON: the names of the columns once, a list of values for each row; NaN becomes null."""
    names = [field.name for field in fields(QueryRow)]
    values = [[_plain(getattr(row, name)) for name in names] for row in rows]
    return json.dumps({"columns": names, "rows": values}, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value
