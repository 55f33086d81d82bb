"""Tables 1 to 3, B.1 and B.3: networks in mixed, cross-modal and uni-modal galleries."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.reproduce.artifact import Artifact, Made
from mixer_plugin.benchmarks.reproduce.grid import Column, Line, grid
from mixer_plugin.benchmarks.reproduce.networks import (
    DATASETS,
    METHODS,
    OURS,
    Bench,
    Network,
    entries,
)
from mixer_plugin.evaluation.settings import SIDES
from mixer_plugin.features import FeatureSet

_MIXED = [
    Column(name=name, title=title, setting=name)
    for name, title in (
        ("mix", "Mix"), ("mix-cam", "Mix-Cam"), ("mix-cam-id", "Mix-Cam-ID"), ("mix-id", "Mix-ID"),
    )
]  # fmt: skip
_SYSU = [
    *_MIXED,
    Column(name="cross", title="All", setting="cross"),
    Column(name="cross-indoor", title="Indoor", setting="cross", search="indoor"),
    Column(name="uni-infrared", title="I→I", setting="uni"),
    Column(name="uni-visible", title="V→V", setting="uni", query="visible"),
]
_TWO_WAYS = [
    _MIXED[0],
    _MIXED[3],
    Column(name="cross", title="I→V", setting="cross"),
    Column(name="cross-visible", title="V→I", setting="cross", query="visible"),
]
_TABLE3 = [Column(name="cross", title="Cross", setting="cross"), *_MIXED]
_LEVEL = (
    "The paper's rows, below ours, are ResNet-50 on the real data set. Rows of single features: "
    "(E) erased, (R) related, for every pair."
)


def _methods(dataset: str) -> list[str]:
    return [entry for entry in METHODS if entry in entries(dataset)]


def _rows(dataset: str, *, reranked: bool = True) -> list[Line]:
    """The other methods and ours, as Tables 1 and 2 list them."""
    across = ("cross", "cross-indoor", "cross-visible")
    lines = [
        Line(label=METHODS[entry], network=Network(dataset, entry, "baseline"))
        for entry in _methods(dataset)
    ]
    ours = Network(dataset, OURS, "e2e")
    features = {"MixER(R)": "related", "MixER(E)": "erased", "MixER": "mixer"}
    lines += [Line(label=name, network=ours, rule=rule) for name, rule in features.items()]
    if reranked:
        for label, entry, method in (
            ("SAAI + AIM", "saai", "aim"),
            ("IDKL + KR", "idkl", "k-reciprocal"),
        ):
            network = Network(dataset, entry, "baseline")
            lines.append(Line(label=label, network=network, rerank=method, columns=across))
        for label, method in (("MixER + AIM", "aim"), ("MixER + KR", "k-reciprocal")):
            lines.append(
                Line(label=label, network=ours, rule="mixer", rerank=method, columns=across)
            )
    return lines


def _networks(lines: list[Line]) -> list[Network]:
    return list(dict.fromkeys(line.network for line in lines))


def _first_tables(dataset: str, number: str, title: str) -> Artifact:
    columns = _SYSU if dataset == "sysu" else _TWO_WAYS

    def make(bench: Bench) -> Made:
        table, rows = grid(bench, title, _rows(dataset), columns, number, _LEVEL)
        return Made([table], rows=rows)

    return Artifact(title=title, networks=lambda bench: _networks(_rows(dataset)), make=make)


def _table3() -> Artifact:
    title = "Table 3: baseline, (f)+MixER and e2e+MixER on SYSU-MM01"
    lines = [
        Line(
            label=label.format(METHODS[entry]),
            network=Network("sysu", entry, cell),
            rule="erased" if cell == "baseline" else "mixer",
        )
        for entry in _methods("sysu")
        for cell, label in (("baseline", "{}"), ("f", "{} (f)+MixER"), ("e2e", "{}+MixER"))
    ]

    def make(bench: Bench) -> Made:
        note = "Infrared query, single-shot. The paper's rows are ResNet-50 on SYSU-MM01."
        table, rows = grid(bench, title, lines, _TABLE3, "table3", note)
        return Made([table], rows=rows)

    return Artifact(title=title, networks=lambda bench: _networks(lines), make=make)


def _b1() -> Artifact:
    title = "Table B.1: visible query in mixed galleries"
    parts = {"sysu": _MIXED, "regdb": [_MIXED[0], _MIXED[3]], "llcm": [_MIXED[0], _MIXED[3]]}

    def lines(dataset: str) -> list[Line]:
        return [line for line in _rows(dataset, reranked=False) if "(" not in line.label]

    def make(bench: Bench) -> Made:
        tables: list[Table] = []
        rows = []
        for dataset, columns in parts.items():
            visible = [dataclasses.replace(column, query="visible") for column in columns]
            table, own = grid(
                bench, f"{title}, {DATASETS[dataset]}", lines(dataset), visible, f"b1-{dataset}",
                "Visible query. The paper's rows are ResNet-50 on the real data set.",
            )  # fmt: skip
            tables.append(table)
            rows += [{"dataset": dataset, **row} for row in own]
        return Made(tables, rows=rows)

    every = [network for dataset in parts for network in _networks(lines(dataset))]
    return Artifact(title=title, networks=lambda bench: every, make=make)


def routed(bench: Bench, seed: int) -> FeatureSet:
    """Three SAAI networks as one: across modalities the one that was trained on both counts.

    Within a modality it is the one that was trained on that modality alone, which stands in the
    related half; rule ``routed`` matches them so.
    """
    both = bench.features(Network("sysu", "saai", "baseline"), seed)
    related = torch.empty_like(both.erased)
    for side, modality in SIDES.items():
        own = bench.features(Network("sysu", "saai", f"{side}-only"), seed)
        rows = both.modality == modality
        related[rows] = own.erased[rows]
    return dataclasses.replace(both, related=related)


def _b3() -> Artifact:
    title = "Table B.3: SAAI, SAAI+MixER, and three SAAI networks that were trained apart"
    saai = partial(Network, "sysu", "saai")
    lines = [
        Line(label="SAAI", network=saai("baseline")),
        Line(label="SAAI + MixER", network=saai("e2e"), rule="mixer"),
        Line(
            label="Upper bound",
            network=saai("baseline"),
            rule="routed",
            features=lambda bench, network, seed: routed(bench, seed),
        ),
    ]

    def make(bench: Bench) -> Made:
        note = (
            "Upper bound: three networks, one of each modality and one of both; a pair is matched "
            "by that of its modality, or of both. The paper's rows are ResNet-50 on SYSU-MM01."
        )
        table, rows = grid(bench, title, lines, _SYSU, "b3", note)
        return Made([table], rows=rows)

    every = [*_networks(lines), *(saai(f"{side}-only") for side in SIDES)]
    return Artifact(title=title, networks=lambda bench: every, make=make)


ARTIFACTS = {
    "table1": _first_tables("sysu", "table1", "Table 1: methods on SYSU-MM01, infrared query"),
    "table2a": _first_tables("regdb", "table2a", "Table 2a: methods on RegDB"),
    "table2b": _first_tables("llcm", "table2b", "Table 2b: methods on LLCM"),
    "table3": _table3(),
    "b1": _b1(),
    "b3": _b3(),
}
