"""Tables of systems by settings, beside the paper's: Tables 1 to 3, 5, B.1 and B.3 to B.5."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.paper.numbers import PaperRow, paper_table
from mixer_plugin.benchmarks.reproduce.networks import Bench, Network
from mixer_plugin.evaluation import Protocol, Results, evaluate
from mixer_plugin.features import FeatureSet

Values = dict[int, tuple[float, float]]  # seed → R1 and mAP in percent


@dataclass(frozen=True, kw_only=True)
class Column:
    """A pair of columns, R1 and mAP.

    Attributes:
        name: of the paper's file.
        title: heading.
        setting: of the gallery.
        query: ``infrared`` or ``visible``.
        search: ``all`` or ``indoor``, of SYSU-MM01.
        dataset: whose networks and images; None: the row's network's own.
    """

    name: str
    title: str
    setting: str
    query: str = "infrared"
    search: str = "all"
    dataset: str | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row.

    Attributes:
        label: ours.
        network: whose features; a column may name another data set.
        rule: of matching.
        rerank: of the lists, or None.
        columns: names of the columns that the paper has; None: all.
        features: what stands in place of the network's own features.
    """

    label: str
    network: Network
    rule: str = "erased"
    rerank: str | None = None
    columns: tuple[str, ...] | None = None
    features: Callable[[Bench, Network, int], FeatureSet] | None = None


def measure_line(bench: Bench, line: Line, columns: Sequence[Column]) -> dict[str, Values]:
    """Column → seed → R1 and mAP, of those that a row has."""
    found: dict[str, Values] = {}
    wanted = [c for c in columns if line.columns is None or c.name in line.columns]
    asked: dict[tuple[Network, str, str], list[Column]] = {}
    for column in wanted:
        network = line.network
        if column.dataset is not None:
            network = Network(column.dataset, network.entry, network.cell)
        asked.setdefault((network, column.search, column.query), []).append(column)
    for (network, search, query), own in asked.items():
        for seed in bench.seeds_of(network):
            make = line.features or (lambda b, n, s: b.features(n, s))
            results = evaluated(
                make(bench, network, seed),
                bench.protocol(network, seed, search),
                [column.setting for column in own],
                query,
                line.rule,
                line.rerank,
                trials=bench.config(network.dataset, network.entry).trials,
            )
            for column in own:
                row = results.get(column.setting, line.rule, query=query)
                found.setdefault(column.name, {})[seed] = (100 * row.r1, 100 * row.mAP)
    return found


def evaluated(
    features: FeatureSet,
    protocol: Protocol,
    settings: Sequence[str],
    query: str,
    rule: str,
    rerank: str | None = None,
    trials: int | None = None,
) -> Results:
    """One system in some settings."""
    asked: dict[str, Any] = {"settings": settings, "query": query, "rerank": rerank}
    return evaluate(features, protocol, rules=[rule], trials=trials, **asked)


def grid(
    bench: Bench,
    title: str,
    lines: Sequence[Line],
    columns: Sequence[Column],
    paper: str,
    note: str,
) -> tuple[Table, list[dict[str, Any]]]:
    """A table of ours with the paper's rows below, and the numbers behind it.

    Args:
        bench: its networks, trained.
        title: heading.
        lines: our rows.
        columns: pairs of columns.
        paper: name of the paper's table; empty: it prints none.
        note: what stands below.
    """
    measured = {line.label: measure_line(bench, line, columns) for line in lines}
    rows = [
        (label, *_cells([found.get(c.name) for c in columns])) for label, found in measured.items()
    ]
    printed = paper_table(paper) if paper else []
    rows += [paper_cells(row, [c.name for c in columns]) for row in printed]
    seeds = sorted({seed for found in measured.values() for v in found.values() for seed in v})
    words = f"Percent, {_over(seeds)}. {note}{errata(printed)}"
    header = ("", *(f"{c.title} {m}" for c in columns for m in ("R1", "mAP")))
    numbers = [
        {"row": label, "column": name, "seed": seed, "r1": pair[0], "mAP": pair[1]}
        for label, found in measured.items()
        for name, values in found.items()
        for seed, pair in values.items()
    ]
    return Table(title, words, header, tuple(rows)), numbers


def _over(seeds: Sequence[int]) -> str:
    words = ", ".join(map(str, seeds))
    return f"seed {words}" if len(seeds) == 1 else f"mean ± standard deviation over seeds {words}"


def _cells(found: Sequence[Values | None]) -> list[str]:
    cells = []
    for values in found:
        for part in (0, 1):
            numbers = [] if values is None else [pair[part] for pair in values.values()]
            cells.append(mean_and_spread(numbers))
    return cells


def mean_and_spread(numbers: Sequence[float]) -> str:
    """``12.3`` or ``12.3 ± 0.4``; a dash of none."""
    if not numbers:
        return "—"
    mean = f"{statistics.fmean(numbers):.1f}"
    return f"{mean} ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else mean


def paper_cells(row: PaperRow, columns: Sequence[str]) -> tuple[str, ...]:
    """A row of the paper in these pairs of columns; a dagger marks one that contradicts itself."""
    pairs = [row.levels(column) or (None, None) for column in columns]
    mark = " †" if row.erratum else ""
    suffix = {"f": " (f)+MixER", "e2e": "+MixER"}.get(row.variant, "")
    cells = ["—" if value is None else f"{value:.2f}" for pair in pairs for value in pair]
    return (f"paper: {row.method}{suffix}{mark}", *cells)


def errata(printed: Sequence[PaperRow]) -> str:
    """What the daggers say."""
    said = [f"{row.method}: {row.erratum}" for row in printed if row.erratum]
    return f" † {'; '.join(said)}." if said else ""
