"""How much longer is a search of a mixed gallery than FAISS' search of the same vectors?

    python -m mixer_plugin.benchmarks.speed.search_speed [--out search_speed.json] [--repetitions 7]

Random features with some identity in them, in the numbers of SYSU-MM01's test set (queries: every
tenth image, both modalities), rule ``mixer``, k = 10, on the CPU. ``search``: one call of
``MixedModalIndex.search`` with ``Flat``, from the feature set on. ``faiss``: the two FAISS searches
of the same vectors with the same k, and nothing else. ``excluding`` leaves out each query's own
image and camera. All run in turn, so that other load on the machine meets them alike; read the
ratios of the minima and of the medians. Then the recall of approximate factory strings.
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

from mixer_plugin.benchmarks.speed.eval_speed import make_features
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.rules import RULES
from mixer_plugin.search import MixedModalIndex, recall_report
from mixer_plugin.search.gpu import import_faiss
from mixer_plugin.search.vectors import item_vectors, normalised, query_vectors

K = 10
EVERY = 10
FACTORIES = (("IVF32,Flat", "nprobe=4"), ("IVF32,Flat", "nprobe=8"), ("HNSW32", "efSearch=64"))


def prepare_faiss(gallery: FeatureSet, query: FeatureSet) -> Callable[[], None]:
    """The FAISS searches of both modalities' vectors, made beforehand."""
    faiss = import_faiss()
    rule = RULES["mixer"]
    unit = normalised(query, rule, None)
    pairs = []
    for modality in Modality:
        items = normalised(gallery[gallery.modality == modality], rule, None)
        vectors = item_vectors(items, rule, modality)
        index = faiss.index_factory(vectors.shape[1], "Flat", faiss.METRIC_INNER_PRODUCT)
        index.add(vectors)
        pairs.append((index, query_vectors(unit, rule, modality)))

    def run() -> None:
        for index, vectors in pairs:
            index.search(vectors, K)

    return run


def measure(repetitions: int, width: int) -> dict[str, Any]:
    """Times the searches in turn and counts recall.

    Args:
        repetitions: Timed runs of each, after one of each that is not timed.
        width: Width of the erased and of the related features.

    Returns:
        Seconds, their minima and medians, ratios to the bare search, and recall by factory string.
    """
    faiss = import_faiss()
    gallery = make_features(width)
    rows = torch.arange(0, len(gallery), EVERY)
    query = gallery[rows]
    flat = MixedModalIndex.build(gallery, device="cpu")
    tasks: dict[str, Callable[[], object]] = {
        "faiss": prepare_faiss(gallery, query),
        "search": lambda: flat.search(query, K),
        "excluding": lambda: flat.search(query, K, exclude=rows, setting="mix-cam"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repetitions + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    ratios = {
        statistic: {
            name: float(function(seconds[name]) / function(seconds["faiss"]))
            for name in ("search", "excluding")
        }
        for statistic, function in (("minimum", np.min), ("median", np.median))
    }
    recall = []
    for factory, parameters in FACTORIES:
        index = MixedModalIndex.build(gallery, factory=factory, parameters=parameters, device="cpu")
        report = recall_report(index, query, flat, k=(1, K))
        recall.append({"parameters": parameters, **vars(report)})
    return {
        "threads": faiss.omp_get_max_threads(),
        "faiss": faiss.__version__,
        "torch": torch.__version__,
        "gallery": len(gallery),
        "queries": len(query),
        "width": width,
        "repetitions": repetitions,
        "seconds": seconds,
        "ratios": ratios,
        "recall": recall,
    }


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and, if asked, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--repetitions", type=int, default=7, help="timed runs of each (>= 5)")
    parser.add_argument("--width", type=int, default=2048, help="of each feature")
    arguments = parser.parse_args(argv)
    if arguments.repetitions < 5:
        parser.error(f"--repetitions must be at least 5, got {arguments.repetitions}")
    report = measure(arguments.repetitions, arguments.width)
    print(
        f"{report['queries']} queries, {report['gallery']} images, widths {report['width']}, "
        f"k {K}, {report['threads']} threads, FAISS {report['faiss']}"
    )
    for statistic, values in report["ratios"].items():
        for name, ratio in values.items():
            print(f"{statistic:8s} {name:10s} {ratio:.3f} of the bare search")
    for row in report["recall"]:
        print(
            f"{row['factory']} {row['parameters']}: recall@{K} within {row['within'][-1]:.3f}, "
            f"across {row['across'][-1]:.3f}, merged {row['merged'][-1]:.3f}; "
            f"{row['milliseconds']:.2f} ms per query, exact {row['exact_milliseconds']:.2f} ms"
        )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
