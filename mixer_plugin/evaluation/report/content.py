"""What a page says of evaluated features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin.evaluation.analysis.modality_bias import (
    MIXED,
    BiasReport,
    PairTable,
    camera_pairs,
    modality_bias,
    modality_pairs,
)
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.report.browser import Looked, ReportSystem, browser_data
from mixer_plugin.evaluation.report.charts import SERIES, Line, line_chart, scatter
from mixer_plugin.evaluation.report.embedding import MOST_POINTS, embed
from mixer_plugin.evaluation.report.lists import (
    RECALLS,
    SHOWN,
    asked_of,
    look,
    of_queries,
    spread_queries,
)
from mixer_plugin.evaluation.report.page import Cell, Figure, Page, Row, Section, Table
from mixer_plugin.evaluation.report.words import (
    SETTINGS,
    explained,
    is_control,
    sentences,
)
from mixer_plugin.evaluation.results import Key, ResultRow, Results
from mixer_plugin.evaluation.tables import percent
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.rules import System, system_name

_RANKS = list(range(1, 21))


def features_page(
    systems: Sequence[tuple[str, FeatureSet, Results]],
    protocol: Protocol,
    *,
    trials: int | None = None,
    plane: bool = False,
) -> Page:
    """The page of evaluated features.

    Args:
        systems: Name, features and results of ``evaluate``; all of the same images, in the same
            order. Of re-ranked results the page has the table alone.
        protocol: The protocol of the results.
        trials: As it was given to ``evaluate``.
        plane: Whether features are laid out in a plane, which takes a while.

    Returns:
        The page, for ``write_page``.
    """
    several = len(systems) > 1
    shown = [
        ReportSystem(
            name=name if several else "",
            features=features,
            results=results,
            main=_main(results),
        )
        for name, features, results in systems
    ]
    summary = [line for each in shown for line in sentences(each.results, each.name)]
    every = list(dict.fromkeys(system for each in shown for system in each.systems))
    head = [
        Section(name="summary", title="Summary", words=summary, terms=explained(every)),
        Section(name="results", title="Results", tables=(results_table(shown),)),
    ]
    title = " and ".join(name for name, _, _ in systems)
    if any(row.rerank for each in shown for row in each.results.rows):
        return Page(title, head)
    return page_of(title, head, shown, protocol, trials=trials, plane=plane)


def page_of(
    title: str,
    head: Sequence[Section],
    systems: Sequence[ReportSystem],
    protocol: Protocol,
    *,
    trials: int | None,
    plane: bool,
) -> Page:
    """A page whose first sections are given; what features show follows."""
    key = chosen_key(systems[0])
    count = asked_of(protocol, systems[0].features, trials)
    looked: dict[tuple[int, System, str], Any] = {}
    queries: list[int] = []
    asked: list[int] = []
    sides = list(dict.fromkeys(row.query for row in systems[0].results.rows))
    shown = min(SHOWN // len(sides), count)
    for query in sides:
        of_side: Key = (key[0], key[1], query, key[3])
        rows = spread_queries(systems[0].results, of_side, count)
        few = np.intersect1d(rows, spread_queries(systems[0].results, of_side, shown))
        queries += few.tolist()
        asked += rows.tolist()
        for number, each in enumerate(systems):
            settings = list(dict.fromkeys(row.setting for row in each.results.rows))
            for system in each.systems:
                main = system in each.main
                some = of_queries(protocol, each.features, trials, rows if main else few)
                looked[number, system, query] = look(
                    *(each.features, some, system),
                    settings=settings,
                    query=query,
                    shown=few,
                    figures=main,
                )
    number = sum(len(rows) for rows, _ in _of_key(systems[0].results, key))
    note = f"First gallery draw, {_spread(len(asked), number, key)}."
    sections = [
        *head,
        _curves(systems, looked, note),
        _separations(systems, looked, note),
        *_planes(systems, plane),
        *_bias(systems, protocol, trials, np.array(asked)),
    ]
    data = browser_data(systems, looked, queries)
    data["note"] = f"Shown: {_spread(len(queries), number, key)}."
    return Page(title, sections, data)


def chosen_key(system: ReportSystem) -> Key:
    """The row by which queries are chosen: ``mix`` if it was evaluated, under the first rule."""
    rule, calibration = system.main[0]
    rows = [r for r in system.results.rows if (r.rule, r.calibration) == (rule, calibration)]
    return min(rows, key=lambda row: row.setting != "mix").key


def _spread(count: int, of: int, key: Key) -> str:
    """How queries were chosen."""
    if count == of:
        return f"all {of} queries"
    return (
        f"{count} of {of} queries, evenly spaced in the order of their average precision in "
        f"{key[0]} under {system_name((key[1], key[3]))}, the worst and the best among them"
    )


def results_table(systems: Sequence[ReportSystem]) -> Table:
    """The table of mAP and R1 by setting and rule; controls are folded."""
    rows = [(each.name, row) for each in systems for row in each.results.rows]
    sides = len({row.query for _, row in rows}) > 1
    named_ = len(systems) > 1
    head = ["system"] * named_ + ["setting", "rule"] + ["query"] * sides
    head += ["mAP, %", "95 % interval", "R1, %", "R10, %", "mINP, %"]
    body = []
    for name, row in rows:
        system = (row.rule, row.calibration)
        words = [name] * named_ + [row.setting, system_name(system)] + [row.query] * sides
        numbers = [number_cell(row.mAP), _interval(row)]
        numbers += [number_cell(value) for value in (row.r1, row.r10, row.mINP)]
        body.append(Row((*map(Cell, words), *numbers), folded=is_control(system)))
    return Table("mAP and R1 by setting and rule", tuple(head), tuple(body))


def number_cell(share: float, *, signed: bool = False) -> Cell:
    """A share in percent."""
    return Cell(percent(share, signed=signed), math.nan if math.isnan(share) else share)


def _interval(row: ResultRow) -> Cell:
    low, high = row.mAP_ci
    return Cell(f"{percent(low)} to {percent(high)}", low)


def _main(results: Results) -> tuple[System, ...]:
    systems = list(dict.fromkeys((row.rule, row.calibration) for row in results.rows))
    return tuple(s for s in systems if not is_control(s)) or tuple(systems[:1])


def _of_key(results: Results, key: Key) -> list[Any]:
    """Queries and AP of a row, of both query modalities where both asked."""
    wanted = (key[0], key[1], key[3])
    return [
        value
        for (setting, rule, _, calibration), value in results.per_query_ap.items()
        if (setting, rule, calibration) == wanted
    ]


def _series(systems: Sequence[ReportSystem]) -> list[tuple[int, System, str, str]]:
    """Number, system, label and style of each line that the curves show."""
    every = [(n, s, each.label(s)) for n, each in enumerate(systems) for s in each.main]
    return [(*each, f"line s{at % SERIES}") for at, each in enumerate(every)]


def _places(systems: Sequence[ReportSystem]) -> list[tuple[str, str]]:
    """Settings and query modalities of the results."""
    return list(dict.fromkeys((row.setting, row.query) for row in systems[0].results.rows))


def _place(setting: str, query: str) -> str:
    return f"{setting}, {query} query"


def _curves(systems: Sequence[ReportSystem], looked: Looked, note: str) -> Section:
    series = _series(systems)
    figures = []
    for setting, query in _places(systems):
        hits, precisions = [], []
        for number, system, label, style in series:
            key = setting, system[0], query, system[1]
            hits.append(Line(label, _RANKS, 100 * systems[number].results.cmc[key], style))
            found = 100 * looked[number, system, query][setting].precision
            precisions.append(Line(label, 100 * np.array(RECALLS), found, style))
        place = _place(setting, query)
        about = f"{place} ({SETTINGS[setting]})"
        figures += [
            Figure(
                line_chart(f"CMC, {place}", hits, ("rank", "found, %")),
                f"{about}: queries found at this rank or before.",
            ),
            Figure(
                line_chart(
                    f"Precision and recall, {place}",
                    precisions,
                    ("recall, %", "precision, %"),
                    y_range=(0, 100),
                ),
                f"{about}: precision where this share of a query's images is found, mean of the "
                "queries.",
            ),
        ]
    return Section(
        name="curves",
        title="CMC and precision",
        words=(f"CMC: all queries and draws. Precision: {note[0].lower()}{note[1:]}",),
        legend=[(style, label) for _, _, label, style in series],
        figures=figures,
    )


def _separations(systems: Sequence[ReportSystem], looked: Looked, note: str) -> Section:
    figures, rows = [], []
    for setting, query in _places(systems):
        for number, system, label, _ in _series(systems):
            found = looked[number, system, query][setting].separation
            if found is None:
                continue
            place = f"{_place(setting, query)}, {label}"
            lines = [
                Line("same person", found.edges, 100 * found.same, "area same", steps=True),
                Line("different persons", found.edges, 100 * found.other, "area other", steps=True),
            ]
            words = f"overlap {found.overlap:.3f}, d′ {found.d_prime:.2f}"
            chart = line_chart(f"Scores, {place}: {words}", lines, ("score", "pairs, %"))
            figures.append(Figure(chart, f"{place}: {words}."))
            cells = [Cell(text) for text in (setting, query, label)]
            numbers = (
                Cell(f"{found.overlap:.3f}", found.overlap),
                Cell(f"{found.d_prime:.2f}", found.d_prime),
            )
            rows.append(Row((*cells, *numbers)))
    head = ("setting", "query", "rule", "overlap", "d′")
    return Section(
        name="scores",
        title="Scores of the same and of different persons",
        words=(
            "A higher score is more alike. Overlap is the area that both outlines share, from 0 "
            "(apart) to 1 (alike); d′ is the distance of their means in standard deviations. "
            + note,
        ),
        legend=[("area same", "same person"), ("area other", "different persons")],
        tables=(Table("How far the scores lie apart", head, tuple(rows)),) if rows else (),
        figures=figures,
    )


def _planes(systems: Sequence[ReportSystem], plane: bool) -> list[Section]:
    if not plane:
        return []
    figures: list[Figure] = []
    known: list[torch.Tensor] = []
    for each in systems:
        for what in ("erased", "related"):
            features = getattr(each.features, what)
            if features is None or any(torch.equal(features, other) for other in known):
                continue  # heads leave the base's features as they are
            known.append(features)
            made = embed(features)
            if made is None:
                continue
            rows, places = made
            styles = ["infrared" if side else "visible" for side in each.features.modality[rows]]
            names = [f"person {i}" for i in each.features.ids[torch.as_tensor(rows)].tolist()]
            title = ", ".join(filter(None, (each.name, f"{what} features of {len(rows)} images")))
            figures.append(Figure(scatter(f"UMAP, {title}", places, styles, names), f"{title}."))
    words = (
        f"UMAP of at most {MOST_POINTS} images, drawn at random: what lies near is alike; "
        "distances across the picture mean little."
    )
    if not figures:
        words = "Left out: it needs umap-learn (pip install umap-learn) and at least 10 images."
    return [
        Section(
            name="plane",
            title="Features in a plane",
            words=(words,),
            legend=[(name, name) for name in ("visible", "infrared") if figures],
            figures=figures,
        )
    ]


def _bias(
    systems: Sequence[ReportSystem],
    protocol: Protocol,
    trials: int | None,
    asked: NDArray[np.int64],
) -> list[Section]:
    settings = list(dict.fromkeys(row.setting for row in systems[0].results.rows))
    mixed = [setting for setting in settings if setting in MIXED]
    if not mixed:
        return []
    tables = []
    for each in (each for each in systems if each.main):
        some = of_queries(protocol, each.features, trials, asked)
        rule, calibration = each.main[-1]
        given: dict[str, Any] = {"rule": rule, "calibration": calibration}
        label = each.label(each.main[-1])
        sides = dict.fromkeys(row.query for row in each.results.rows)
        found = [
            modality_bias(each.features, some, settings=mixed, query=side, **given)
            for side in sides
        ]
        report = BiasReport(tuple(row for one in found for row in one.rows))
        tables.append(_bias_table(report, f"Modality bias: {label}"))
        both = of_queries(protocol, each.features, trials, _both_sides(protocol, each, len(asked)))
        for words, pairs in (("modality", modality_pairs), ("camera", camera_pairs)):
            made = pairs(each.features, both, setting=mixed[0], **given)
            tables.append(_pair_table(made, f"mAP and R1 by {words}, {mixed[0]}: {label}"))
    words = (
        f"Bias is the share of the query's own modality among the first ten minus its share of the "
        f"whole list: 0 for an order blind to the modality. {len(asked)} queries, in the tables of "
        "pairs at most as many of each modality; all draws."
    )
    return [Section(name="bias", title="Modality and camera", words=(words,), tables=tables)]


def _both_sides(protocol: Protocol, system: ReportSystem, count: int) -> NDArray[np.int64]:
    """Evenly spaced rows of the queries of each modality, at most so many of each."""
    sides = [protocol.queries(system.features, int(side)) for side in Modality]
    return np.concatenate(
        [r[np.linspace(0, len(r) - 1, min(count, len(r))).astype(np.int64)] for r in sides]
    )


def _bias_table(report: BiasReport, caption: str) -> Table:
    head = ["setting", "query", "own modality in first 10, %", "expected, %", "bias, points"]
    head += ["first hit, same modality", "first hit, other", "mAP same, %", "mAP other, %"]
    rows = []
    for row in report.rows:
        cells = [Cell(row.setting), Cell(row.query), number_cell(row.share)]
        cells += [number_cell(row.expected), number_cell(row.bias, signed=True)]
        for rank in (row.first_same, row.first_cross):
            cells.append(Cell("–" if math.isnan(rank) else f"{rank:.1f}", rank))
        rows.append(Row((*cells, number_cell(row.mAP_same), number_cell(row.mAP_cross))))
    return Table(caption, tuple(head), tuple(rows))


def _pair_table(table: PairTable, caption: str) -> Table:
    rows = [
        Row(
            (
                Cell(name),
                *(
                    Cell(f"{percent(ap)} / {percent(r1)}", ap)
                    for ap, r1 in zip(aps.tolist(), r1s.tolist(), strict=True)
                ),
            )
        )
        for name, aps, r1s in zip(table.groups, table.mAP, table.r1, strict=True)
    ]
    return Table(caption, ("query \\ gallery", *table.groups), tuple(rows))
