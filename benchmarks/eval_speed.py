"""How much longer is a whole evaluation than the similarity product it is made from?

    python -m mixer_plugin.benchmarks.eval_speed [--out eval_speed.json] [--repetitions 7]

SYSU-MM01-shaped random features (3,803 infrared queries, 10,578 gallery items, width 2,048, erased
and related, 96 identities, the six cameras), rule ``mixer``. Evaluation: from the feature set to
the metrics of seven settings in one pass: the six with all cameras, and ``cross`` with the indoor
ones. Product: the same float32 products in the same blocks, and nothing else. Both run in turn, so
that other load on the machine meets both alike; read the ratio of the minima and of the medians,
and of the processor time, which other load disturbs least.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixer_plugin.evaluation.gallery import arrange
from mixer_plugin.evaluation.metrics import QueryMetrics, cmc, nan_mean
from mixer_plugin.evaluation.ranking import Queries, block_rows, rank
from mixer_plugin.evaluation.settings import SETTINGS, Groups, View, find_groups, view
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching import products, unit_source
from mixer_plugin.rules import check_rules

# Test images per camera (96 identities; two thirds of them in cameras 1 and 2), as in SYSU-MM01.
IMAGES = {1: 1374, 2: 1565, 3: 1883, 4: 1918, 5: 1918, 6: 1920}
IDENTITIES = {1: 56, 2: 56, 3: 93, 4: 94, 5: 95, 6: 96}
COLOCATED = ((2, 3),)
RULES = check_rules(["mixer"])


def make_features(width: int = 2048, seed: int = 0) -> FeatureSet:
    """Random features of SYSU-MM01's test set in numbers, with some identity in them."""
    rng = np.random.default_rng(seed)
    cams = np.repeat(list(IMAGES), list(IMAGES.values()))
    ids = np.concatenate([1 + np.arange(IMAGES[cam]) % IDENTITIES[cam] for cam in IMAGES])
    modality = np.isin(cams, (3, 6)).astype(np.int64)

    def features() -> np.ndarray:
        centers = rng.standard_normal((97, width), dtype=np.float32)
        return centers[ids] * 0.3 + rng.standard_normal((len(ids), width), dtype=np.float32)

    return FeatureSet(features(), features(), ids, cams, modality)


def seven_views(groups: Groups) -> list[View]:
    """The six settings with all cameras, and ``cross`` with cameras 1 and 2."""
    views = [view(name, groups, COLOCATED) for name in SETTINGS]
    cross = views[0]
    indoor = np.isin(groups.camera, (1, 2))
    listed = cross.listed & indoor
    return [*views, View("cross, indoor", listed, listed, cross.gallery & indoor)]


def evaluation(features: FeatureSet) -> dict[str, float]:
    """MAP of the seven settings, from the feature set on."""
    modality, cams, ids = (
        value.numpy() for value in (features.modality, features.cams, features.ids)
    )
    groups = find_groups(modality, cams)
    identity = np.unique(ids, return_inverse=True)[1].reshape(-1)
    gallery = arrange([np.arange(len(ids))], groups, identity, torch.device("cpu"))
    source = unit_source(features, RULES)
    items = source.rows(gallery.rows)
    at = np.flatnonzero(modality == Modality.INFRARED)
    row, group, name = (torch.from_numpy(x) for x in (at, groups.of_row[at], identity[at]))
    queries = Queries(row, group, name, int(Modality.INFRARED))
    views = seven_views(groups)
    ((_, found),) = rank(queries, gallery, source, items, views, RULES, [None], dedup=True).items()
    return _means(found, views)


def _means(found: QueryMetrics, views: list[View]) -> dict[str, float]:
    cmc(found.first)
    nan_mean(found.inp, axis=-1)
    means = nan_mean(found.ap, axis=-1)[0]
    return {each.name: float(value) for each, value in zip(views, means, strict=True)}


def prepare_product(features: FeatureSet) -> Callable[[], None]:
    """The products alone, on features that are already normalised and in order."""
    source = unit_source(features, RULES)
    split = int((features.modality == Modality.VISIBLE).sum())
    gallery = source.rows(torch.argsort(features.modality, stable=True))
    rows = (features.modality == Modality.INFRARED).nonzero().flatten()
    size = block_rows(len(features))
    blocks = [source.rows(rows[start : start + size]) for start in range(0, len(rows), size)]

    def run() -> None:
        for block in blocks:
            products(block, gallery, split, int(Modality.INFRARED), RULES)

    return run


def measure(repetitions: int) -> dict[str, Any]:
    """Times both in turn.

    Args:
        repetitions: Timed runs of each, after one of each that is not timed.

    Returns:
        Seconds of the wall clock and of the processor, their minima, medians and ratios.
    """
    features = make_features()
    product = prepare_product(features)
    tasks: dict[str, Callable[[], object]] = {
        "product": product,
        "evaluation": lambda: evaluation(features),
    }
    seconds: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in tasks} for clock in ("wall", "cpu")
    }
    for turn in range(repetitions + 1):
        for name, task in tasks.items():
            wall, cpu = time.perf_counter(), time.process_time()
            task()
            if turn:
                seconds["wall"][name].append(time.perf_counter() - wall)
                seconds["cpu"][name].append(time.process_time() - cpu)
    report: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "repetitions": repetitions,
        "seconds": seconds,
    }
    for clock, runs in seconds.items():
        for statistic, function in (("minimum", min), ("median", np.median)):
            product_s, evaluation_s = (float(function(runs[name])) for name in tasks)
            report[f"{clock}_{statistic}"] = {
                "product": product_s,
                "evaluation": evaluation_s,
                "ratio": evaluation_s / product_s,
            }
    return report


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and, if asked, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--repetitions", type=int, default=7, help="timed runs of each (>= 5)")
    arguments = parser.parse_args(argv)
    if arguments.repetitions < 5:
        parser.error(f"--repetitions must be at least 5, got {arguments.repetitions}")
    report = measure(arguments.repetitions)
    print(f"{report['threads']} threads, torch {report['torch']}, numpy {report['numpy']}")
    for name, values in report.items():
        if isinstance(values, dict) and "ratio" in values:
            print(
                f"{name:12s} product {values['product']:7.3f} s  "
                f"evaluation {values['evaluation']:7.3f} s  ratio {values['ratio']:.3f}"
            )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
