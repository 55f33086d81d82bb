"""Figures 4, 5 and B.2: distances, ranked lists and the plane of the features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin.benchmarks.experiment.pictures import (
    ShownList,
    choose_queries,
    lists_figure,
    pyplot,
)
from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.reproduce.artifact import Artifact, Made, Picture
from mixer_plugin.benchmarks.reproduce.grid import evaluated
from mixer_plugin.benchmarks.reproduce.networks import OURS, Bench, Network
from mixer_plugin.evaluation.report.embedding import embed
from mixer_plugin.evaluation.report.lists import Separation, look
from mixer_plugin.features import FeatureSet

_SAME, _OTHER = "#0072b2", "#d55e00"
_PERSONS, _MARKERS = 8, "osD^vP*X"
_TOP = 6


def systems(entry: str) -> dict[str, tuple[Network, str]]:
    """Name → network and rule: the baseline, and the same with MixER end to end."""
    return {
        "baseline": (Network("sysu", entry, "baseline"), "erased"),
        "MixER": (Network("sysu", entry, "e2e"), "mixer"),
    }


def _networks(entry: str) -> list[Network]:
    return [network for network, _ in systems(entry).values()]


def _figure4() -> Artifact:
    title = "Figure 4: distances between images of one person and of two"
    settings = {"cross": "Cross", "mix": "Mix", "mix-cam": "Mix-Cam"}

    def make(bench: Bench) -> Made:
        rows: list[dict[str, Any]] = []
        drawn: list[tuple[str, Separation]] = []
        for name, (network, rule) in systems("saai").items():
            seed = bench.seeds_of(network)[0]
            found = look(
                bench.features(network, seed),
                bench.protocol(network, seed),
                (rule, None),
                settings=list(settings),
                query="infrared",
                shown=np.empty(0, np.int64),
                figures=True,
            )
            for setting, heading in settings.items():
                separation = found[setting].separation
                if separation is None:
                    continue
                drawn.append((f"{name}, {heading}", separation))
                rows.append(
                    {"row": name, "setting": setting, "seed": seed, "overlap": separation.overlap,
                     "d_prime": separation.d_prime}
                )  # fmt: skip
        body = [
            (f"{r['row']}, {settings[r['setting']]}", f"{r['overlap']:.3f}", f"{r['d_prime']:.2f}")
            for r in rows
        ]
        note = (
            "SAAI, infrared queries with the items of their lists in the first draw. Overlap: the "
            "sum over 60 bins of the smaller share, 0 where the two lie apart. d′: difference of "
            "the means over the root of the mean variance."
        )
        caption = (
            "Distances (1 − score) of pairs of one person (blue) and of two (orange), as shares of "
            "each, for SAAI and SAAI with MixER in three galleries; ov: overlap coefficient."
        )
        picture = Picture("figure-4", _histograms(drawn), caption)
        return Made([Table(title, note, ("", "overlap", "d′"), tuple(body))], [picture], rows)

    return Artifact(title=title, networks=lambda bench: _networks("saai"), make=make)


def _histograms(drawn: list[tuple[str, Separation]]) -> Any:
    columns = max(len(drawn) // 2, 1)
    figure, panels = pyplot().subplots(2, columns, figsize=(3 * columns, 4.6), squeeze=False)
    for panel, (name, separation) in zip(panels.flat, drawn, strict=False):
        edges = 1 - separation.edges
        for shares, colour, words in (
            (separation.same, _SAME, "one person"),
            (separation.other, _OTHER, "two persons"),
        ):
            panel.stairs(
                shares[::-1], edges[::-1], color=colour, fill=True, alpha=0.45, label=words
            )
        panel.set_title(
            f"{name}\nov {separation.overlap:.2f}, d′ {separation.d_prime:.2f}", fontsize=9
        )
        panel.set_yticks([])
    for panel in panels[-1]:
        panel.set_xlabel("distance, 1 − score", fontsize=9)
    panels[0][0].legend(fontsize=8, loc="upper left")
    return figure


def _figure5() -> Artifact:
    title = "Figure 5: the first six of a list"
    settings = {"mix-cam-id": "Mix-Cam-ID", "mix-id": "Mix-ID"}

    def make(bench: Bench) -> Made:
        pictures, rows, body = [], [], []
        for setting, heading in settings.items():
            lists, own = _lists(bench, setting)
            pictures.append(_list_picture(bench, setting, heading, lists))
            rows += own
        for row in rows:
            label = f"{settings[row['setting']]}, {row['why']}, {row['row']}"
            right = f"{sum(row['right'])} of {len(row['right'])}"
            body.append((label, right, f"{100 * row['ap']:.1f}"))
        note = (
            "Queries by rule: the largest gain in AP, the median change, the largest loss. Each "
            "list is the setting's own: what it removes for a query is not in it."
        )
        return Made([Table(title, note, ("", "right", "AP, %"), tuple(body))], pictures, rows)

    return Artifact(title=title, networks=lambda bench: _networks(OURS), make=make)


def _lists(bench: Bench, setting: str) -> tuple[list[ShownList], list[dict[str, Any]]]:
    """The lists of three queries by both systems, and what they hold."""
    every = systems(OURS)
    seed = bench.seeds_of(next(iter(every.values()))[0])[0]
    found = {}
    for name, (network, rule) in every.items():
        features, protocol = bench.features(network, seed), bench.protocol(network, seed)
        results = evaluated(features, protocol, [setting], "infrared", rule)
        found[name] = (
            features,
            protocol,
            rule,
            results.per_query_ap[setting, rule, "infrared", None],
        )
    (rows, before), (_, after) = (each[3] for each in found.values())
    chosen = choose_queries(rows, before, after)
    shown = np.array([query.row for query in chosen], np.int64)
    lists, told = [], []
    tops = {
        name: look(
            features, protocol, (rule, None), settings=[setting], query="infrared",
            shown=shown, figures=False,
        )[setting].top
        for name, (features, protocol, rule, _) in found.items()
    }  # fmt: skip
    for query in chosen:
        for name, (features, *_) in found.items():
            items, scores = tops[name][query.row][0][:_TOP], tops[name][query.row][1][:_TOP]
            ap = query.before if name == "baseline" else query.after
            words = f"{query.why}\n{name}\nAP {100 * ap:.0f} %"
            lists.append(ShownList(query.row, words, items, scores))
            right = [bool(features.ids[i] == features.ids[query.row]) for i in items]
            told.append(
                {"row": name, "setting": setting, "why": query.why, "query": query.row, "ap": ap,
                 "items": items, "scores": scores, "right": right, "seed": seed}
            )  # fmt: skip
    return lists, told


def _list_picture(bench: Bench, setting: str, heading: str, lists: list[ShownList]) -> Picture:
    network = Network("sysu", OURS, "e2e")
    features = bench.features(network, bench.seeds_of(network)[0])
    caption = (
        f"The first six items under {heading} of three infrared queries (largest gain, median "
        "change, largest loss in AP), by the baseline and with MixER. Above an item: V visible, IR "
        "infrared, and its camera; below: its score; blue frame: the right person."
    )
    figure = lists_figure(lists, features, f"{heading}: baseline and MixER", _TOP)
    return Picture(f"figure-5-{setting}", figure, caption)


def _figure_b2() -> Artifact:
    title = "Figure B.2: the features in a plane"

    def make(bench: Bench) -> Made:
        network = Network("sysu", OURS, "e2e")
        seed = bench.seeds_of(network)[0]
        plain = bench.features(Network("sysu", OURS, "baseline"), seed)
        mixer = bench.features(network, seed)
        rows = _persons(mixer)
        parts = {
            "baseline": plain.erased[rows],
            "erased": mixer.erased[rows],
            "related": _related(mixer)[rows],
            "fused": fused(mixer)[rows],
        }
        labels = mixer.ids[rows].numpy(), mixer.modality[rows].numpy()
        places, how = {}, ""
        told = []
        for name, features in parts.items():
            places[name], how = plane(features)
            told += [
                {"row": name, "person": int(person), "modality": int(side), "x": float(x),
                 "y": float(y), "seed": seed}
                for (x, y), person, side in zip(places[name], *labels, strict=True)
            ]  # fmt: skip
        caption = (
            f"Test images of {_PERSONS} persons in a plane ({how}), by four features of the "
            "paper's baseline without and with MixER. Blue: visible; orange: infrared; shape: "
            "person."
        )
        picture = Picture("figure-b2", _planes(places, *labels), caption)
        body = [(name, str(len(p))) for name, p in places.items()]
        table = Table(title, caption, ("feature", "images"), tuple(body))
        return Made([table], [picture], told)

    return Artifact(title=title, networks=lambda bench: _networks(OURS), make=make)


def _persons(features: FeatureSet) -> Tensor:
    """Rows of the first persons that both modalities show."""
    ids = [set(features.ids[features.modality == side].tolist()) for side in (0, 1)]
    both = sorted(ids[0] & ids[1])
    return torch.isin(features.ids, torch.tensor(both[:_PERSONS])).nonzero().flatten()


def _related(features: FeatureSet) -> Tensor:
    assert features.related is not None
    return features.related


def fused(features: FeatureSet) -> Tensor:
    """Both L2-normalised halves, one after the other; float32 [N, D + R]."""
    return torch.cat([F.normalize(features.erased), F.normalize(_related(features))], dim=1)


def plane(features: Tensor) -> tuple[np.ndarray, str]:
    """Places of features, float32 [N, D], in a plane: float64 [N, 2], and how they were found.

    UMAP where ``umap-learn`` is installed, else the two principal components.
    """
    found = embed(features)
    if found is not None and len(found[0]) == len(features):
        return found[1], "UMAP by cosine"
    unit = F.normalize(features.double())
    centred = unit - unit.mean(dim=0)
    return (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T).numpy(), (
        "two principal components; UMAP needs umap-learn"
    )


def _planes(places: dict[str, np.ndarray], ids: np.ndarray, modality: np.ndarray) -> Any:
    figure, panels = pyplot().subplots(1, len(places), figsize=(3.2 * len(places), 3.3))
    for panel, (name, points) in zip(panels, places.items(), strict=True):
        for marker, person in zip(_MARKERS, np.unique(ids), strict=False):
            for side, colour, words in ((0, _SAME, "visible"), (1, _OTHER, "infrared")):
                own = (ids == person) & (modality == side)
                label = words if person == ids.min() else "_"
                panel.scatter(*points[own].T, s=16, c=colour, marker=marker, alpha=0.8, label=label)
        panel.set_title(name, fontsize=10)
        panel.set_xticks([])
        panel.set_yticks([])
    panels[0].legend(fontsize=8, loc="best")
    return figure


ARTIFACTS = {"figure4": _figure4(), "figure5": _figure5(), "figure-b2": _figure_b2()}
