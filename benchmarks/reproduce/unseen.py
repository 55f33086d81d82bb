"""Table 4: networks on Market-1501, whose persons and cameras none of them has seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.experiment.images import decoded_batches, features_of
from mixer_plugin.benchmarks.experiment.sources import OTHER_PERSONS
from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.experiment.trained_network import load_trained
from mixer_plugin.benchmarks.paper.numbers import paper_table
from mixer_plugin.benchmarks.reproduce.artifact import Artifact, Made
from mixer_plugin.benchmarks.reproduce.grid import errata, evaluated, mean_and_spread, paper_cells
from mixer_plugin.benchmarks.reproduce.networks import (
    DATASETS,
    METHODS,
    OURS,
    Bench,
    Network,
    entries,
)
from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.data.loading.cache import open_cache
from mixer_plugin.data.synthetic import layout_config, write_layout
from mixer_plugin.evaluation import get_protocol
from mixer_plugin.features import FeatureSet

_SOURCES = ("sysu", "regdb", "llcm")
_OURS = {"MixER(E)": "erased", "MixER(R)": "related", "MixER(E+R)": "mixer"}


def features_on_market(bench: Bench, network: Network, seed: int) -> FeatureSet:
    """Market-1501's test images as a network sees them; kept beside the network.

    Raises:
        MixERError: if its folder was not given, or its images cannot be read.
    """
    job, out = bench.job(network, seed), bench.folder(network.dataset)
    (cell,) = job.cells
    path = job.folder(out) / f"{cell.name}.market.features.npz"
    if not path.is_file():
        model, built = load_trained(job.folder(out) / f"{cell.name}.pt")
        images = read_images(_market(bench, job.data.train.settings(job.world, seed)), "test",
                             layout="market")  # fmt: skip
        pixels = open_cache(images, built.image_size, bench.out / "networks" / "decoded-market")
        features_of(model, decoded_batches(images, pixels, built)).save(path)
    features = FeatureSet.load(path)
    return features if network.cell == cell.name else dataclasses.replace(features, related=None)


def _market(bench: Bench, settings: Any) -> Path:
    """Its folder; in mini, generated persons of nobody's training."""
    if not bench.mini:
        return Path(bench.root("market"))
    root = bench.out / "networks" / "market"
    own = {
        name: getattr(settings, name)
        for name in ("height", "width", "pose", "light", "camera_shift", "test_ids")
    }
    write_layout(root, layout_config("market", seed=OTHER_PERSONS, **own), "market")
    return root


def _rows() -> list[tuple[str, str, str, str]]:
    """Label, entry, cell and rule."""
    methods = [(name, entry, "baseline", "erased") for entry, name in METHODS.items()]
    return [*methods, *((name, OURS, "e2e", rule) for name, rule in _OURS.items())]


def _table4() -> Artifact:
    title = "Table 4: trained on one data set, tested on Market-1501 (V→V)"

    def networks(bench: Bench) -> list[Network]:
        found = {
            Network(source, entry, cell): None
            for source in _SOURCES
            for _, entry, cell, _ in _rows()
            if entry in entries(source)
        }
        return list(found)

    def make(bench: Bench) -> Made:
        rows: list[dict[str, Any]] = []
        body = []
        protocol = get_protocol("market1501")
        for label, entry, cell, rule in _rows():
            cells: list[str] = []
            for source in _SOURCES:
                levels = []
                if entry in entries(source):
                    network = Network(source, entry, cell)
                    for seed in bench.seeds_of(network):
                        features = features_on_market(bench, network, seed)
                        results = evaluated(features, protocol, ["uni"], "visible", rule)
                        row = results.get("uni", rule, query="visible")
                        levels.append((100 * row.r1, 100 * row.mAP))
                        rows.append(
                            {"row": label, "source": source, "seed": seed, "r1": 100 * row.r1,
                             "mAP": 100 * row.mAP}
                        )  # fmt: skip
                cells += [mean_and_spread([pair[part] for pair in levels]) for part in (0, 1)]
            body.append((label, *cells))
        printed = paper_table("table4")
        body += [paper_cells(row, _SOURCES) for row in printed]
        heads = (f"{DATASETS[source]} {m}" for source in _SOURCES for m in ("R1", "mAP"))
        note = (
            "Percent; columns say what was trained on. (E) erased, (R) related, (E+R) both. The "
            f"upper bound is the paper's quotation, not a run of ours.{errata(printed)}"
        )
        return Made([Table(title, note, ("", *heads), tuple(body))], rows=rows)

    return Artifact(title=title, networks=networks, make=make, datasets=("market",))


ARTIFACTS = {"table4": _table4()}
