"""The retrieval browser's data: queries, their lists under every system, and small pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixer_plugin.evaluation.per_query import short_names
from mixer_plugin.evaluation.report.lists import SettingLists
from mixer_plugin.evaluation.report.thumbnails import MOST_BYTES, thumbnails
from mixer_plugin.evaluation.results import Results
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.rules import System, system_name


@dataclass(frozen=True, kw_only=True)
class ReportSystem:
    """Features and how they did.

    Attributes:
        name: What the page calls them; empty where there are no others.
        features: The images.
        results: Of ``evaluate``: the rows whose lists the page shows.
        main: The rows whose curves it shows, none of a control; the first system's first one
            chooses the queries.
    """

    name: str
    features: FeatureSet
    results: Results
    main: tuple[System, ...]

    @property
    def systems(self) -> list[System]:
        """Rules and calibrations of the results."""
        return list(dict.fromkeys((row.rule, row.calibration) for row in self.results.rows))

    def label(self, system: System) -> str:
        """``NAME, mixer, znorm``."""
        return ", ".join(filter(None, (self.name, system_name(system))))


# By number of the system, rule and calibration, and query modality: the lists of each setting.
Looked = Mapping[tuple[int, System, str], Mapping[str, SettingLists]]


def browser_data(
    systems: Sequence[ReportSystem], looked: Looked, queries: Sequence[int]
) -> dict[str, Any]:
    """JSON of the browser.

    Args:
        systems: All of the same images.
        looked: Their lists.
        queries: Rows of the queries.

    Returns:
        ``systems``: name, and the rows of ``evaluate``; ``choices``: label, system, rule and
        calibration; ``start``: the choices shown at first; ``settings``; ``queries``: rows;
        ``images``: of each row that is a query or in a list, its name, id, camera, modality and
        picture; ``entries``: by choice and setting, per query its AP, first hit, and rows and
        scores of its list (null where it was not asked).
    """
    features = systems[0].features
    rows = list(dict.fromkeys([*queries, *_by_rank(looked, queries)]))
    choices: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    start: list[int] = []  # what is compared at first: the first two rows that are no controls
    for number, each in enumerate(systems):
        for system in each.systems:
            label = each.label(system)
            start += [len(choices)] * (system in each.main)
            choices.append({"label": label, "of": number, "rule": system[0], "by": system[1]})
            entries.append(_entries(each.results, looked, (number, system), queries))
    pictures = thumbnails(features.paths, rows, MOST_BYTES - len(json.dumps(entries)))
    names = short_names(features.paths) if features.paths is not None else None
    images = {
        row: {
            "name": f"row {row}" if names is None else names[row],
            "id": int(features.ids[row]),
            "camera": int(features.cams[row]),
            "modality": int(features.modality[row]),
            "picture": pictures.get(row),
        }
        for row in rows
    }
    return {
        "systems": [
            {"name": each.name, "rows": json.loads(each.results.to_json())["rows"]}
            for each in systems
        ],
        "choices": choices,
        "start": start[:2],
        "settings": list(dict.fromkeys(row.setting for row in systems[0].results.rows)),
        "queries": list(queries),
        "images": images,
        "entries": entries,
    }


def _by_rank(looked: Looked, queries: Sequence[int]) -> Iterator[int]:
    """The rows of all lists, first places first."""
    tops = [
        of_setting.top[row][0]
        for lists in looked.values()
        for of_setting in lists.values()
        for row in queries
        if row in of_setting.top
    ]
    for place in range(max(map(len, tops), default=0)):
        for top in tops:
            yield from top[place : place + 1]


def _entries(
    results: Results, looked: Looked, which: tuple[int, System], queries: Sequence[int]
) -> dict[str, dict[str, list[Any]]]:
    number, (rule, calibration) = which
    found: dict[str, dict[str, list[Any]]] = {}
    for setting, of_rule, query, of_calibration in results.per_query_ap:
        if (of_rule, of_calibration) != (rule, calibration):
            continue
        key = setting, rule, query, calibration
        known, aps = results.per_query_ap[key]
        figures = zip(aps.tolist(), results.first_hit[key].tolist(), strict=True)
        of_row = dict(zip(known.tolist(), figures, strict=True))
        top = looked[number, (rule, calibration), query][setting].top
        entry = found.setdefault(
            setting, {name: [None] * len(queries) for name in ("ap", "first", "rows", "scores")}
        )
        for at, row in enumerate(queries):
            if row in of_row:
                values = *(None if math.isnan(v) else v for v in of_row[row]), *top[row]
                for name, value in zip(("ap", "first", "rows", "scores"), values, strict=True):
                    entry[name][at] = value
    return found
