"""RegDB's number: the mean over its splits, each evaluated with a model of its own."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.results import ResultRow, Results, trial_std

_LEVEL = 0.95
# Lines of a contract that tell of the split and of its images; the others are options.
_OF_ONE_SPLIT = ("protocol", "queries", "note")


def mean_over_splits(results: Sequence[Results]) -> Results:
    """The mean over the splits of every row.

    ``r1_std``, ``mAP_std`` and ``mINP_std`` are standard deviations over the splits (n - 1),
    ``mAP_ci`` is the 95 % interval of Student's t with n - 1 degrees of freedom, and ``trials`` is
    n. The interval takes splits for independent, though they halve the same identities, and may
    leave [0, 1] where they are few. A mean is NaN if a split's value is. ``per_query_ap`` is
    empty: each split has queries of its own.

    Args:
        results: Of ``evaluate`` under ``regdb/1`` … ``regdb/10``, at least two of them, with the
            same options, settings, rules, queries and calibrations.

    Returns:
        A row per row of the first, of the protocol ``regdb/mean of N splits``.

    Raises:
        MixERValueError: There are fewer than two results, a protocol is not RegDB's, a split is
            there twice, or rows or options differ between the splits.
    """
    if len(results) < 2:
        raise MixERValueError(
            f"A mean over splits takes two results or more, got {len(results)}; a single split's "
            "result is its own."
        )
    splits = [_split(result) for result in results]
    twice = sorted({split for split in splits if splits.count(split) > 1})
    if twice:
        raise MixERValueError(f"Split {twice[0]} of RegDB is given twice; give each split once.")
    first = results[0]
    tables = [{_labels(row): row for row in result.rows} for result in results]
    for split, result, table in zip(splits, results, tables, strict=True):
        if table.keys() != tables[0].keys():
            odd = dict(sorted(table.keys() ^ tables[0].keys())[0])
            raise MixERValueError(
                f"Splits {splits[0]} and {split} have different rows: one lacks {odd}; evaluate "
                "all splits with the same settings, rules, query and calibration."
            )
        pairs = zip_longest(_options(first), _options(result), fillvalue="nothing")
        differing = next((pair for pair in pairs if pair[0] != pair[1]), None)
        if differing is not None:
            raise MixERValueError(
                f"Splits {splits[0]} and {split} were evaluated with different options: "
                f"{differing[0]!r} and {differing[1]!r}."
            )
    name = f"regdb/mean of {len(results)} splits"
    rows = [_mean_row(name, [table[_labels(row)] for table in tables]) for row in first.rows]
    contract = [
        f"protocol    {name}",
        f"splits      {', '.join(map(str, sorted(splits)))}; a model trained on each",
        "queries     every test image of the query modality",
        "spread      standard deviations over the splits; mAP interval of Student's t",
        *_options(first),
    ]
    return Results(rows, "\n".join(contract), {})


def _split(result: Results) -> int:
    names = sorted({row.protocol for row in result.rows})
    found = re.fullmatch(r"regdb/(\d+)", names[0]) if len(names) == 1 else None
    if found is None:
        raise MixERValueError(
            "A mean over splits takes results of one split of RegDB each (protocols regdb/1 to "
            f"regdb/10), got one of {', '.join(map(repr, names)) or 'no row'}."
        )
    return int(found[1])


def _labels(row: ResultRow) -> tuple[tuple[str, str], ...]:
    """The fields that identify a row, except the protocol: setting, rule, query and so on."""
    return tuple(
        (field.name, str(value))
        for field in dataclasses.fields(row)
        if field.name != "protocol"
        and ((value := getattr(row, field.name)) is None or isinstance(value, str))
    )


def _options(result: Results) -> list[str]:
    lines = result.contract.split("\n")
    return [line for line in lines if not line.startswith(_OF_ONE_SPLIT)]


def _mean_row(protocol: str, rows: Sequence[ResultRow]) -> ResultRow:
    values = {
        field.name: [getattr(row, field.name) for row in rows]
        for field in dataclasses.fields(ResultRow)
    }
    new: dict[str, Any] = {}
    for name, each in values.items():
        if name.endswith("_std"):
            new[name] = trial_std(values[name.removesuffix("_std")])
        elif isinstance(each[0], float):
            new[name] = float(np.mean(each))
    half = student_quantile(_LEVEL, len(rows) - 1) * new["mAP_std"] / math.sqrt(len(rows))
    interval = (new["mAP"] - half, new["mAP"] + half)
    return dataclasses.replace(rows[0], protocol=protocol, trials=len(rows), mAP_ci=interval, **new)


def student_quantile(level: float, degrees: int) -> float:
    """The two-sided quantile of Student's t distribution for a given coverage.

    By hand, since SciPy is no dependency of the core (``scipy.stats.t.ppf(0.5 + level / 2, n)``).
    Bisection of the finite sums that the distribution is for whole degrees of freedom (Abramowitz
    and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4).

    Args:
        level: The probability, above 0 and below 1.
        degrees: Degrees of freedom, at least 1.

    Returns:
        The bound t > 0.

    Raises:
        MixERValueError: An argument is out of its range.
    """
    if not 0 < level < 1 or degrees < 1:
        raise MixERValueError(
            "Student's t needs a level between 0 and 1 and at least one degree of freedom, got "
            f"{level} and {degrees}."
        )
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # past the last bit of a float
        angle = (low + high) / 2
        low, high = (angle, high) if _coverage(angle, degrees) < level else (low, angle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _coverage(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) * tan(angle))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(degrees // 2):
        total += term
        term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
