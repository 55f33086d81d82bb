"""How much longer is a search of a mixed gallery than FAISS' search of the same vectors?

    python -m mixer_plugin.benchmarks.speed.search_speed [--out search_speed.json] [--repetitions 7]

Random features with some identity in them, in the numbers of SYSU-MM01's test set (queries: every
tenth image, both modalities), rule ``mixer``, k = 10. ``search``: one call of
``MixedModalIndex.search`` with ``Flat``, from the feature set on. ``faiss``: the two FAISS searches
of the same vectors with the same k, and nothing else. ``excluding`` leaves out each query's own
image and camera. All take turns; read the ratios of the minima and of the medians. Then the recall
of approximate factory strings, on the CPU. Needs FAISS, with ``--device cuda`` faiss-gpu.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.speed.eval_speed import make_features
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.io.console import run_command
from mixer_plugin.matching.rules import RULES
from mixer_plugin.search import MixedModalIndex, recall_report
from mixer_plugin.search.gpu import choose_gpu, import_faiss
from mixer_plugin.search.vectors import item_vectors, normalised, query_vectors

K = 10
EVERY = 10
FACTORIES = (("IVF32,Flat", "nprobe=4"), ("IVF32,Flat", "nprobe=8"), ("HNSW32", "efSearch=64"))


def faiss_pairs(gallery: FeatureSet, query: FeatureSet, device: str) -> list[tuple[Any, Any]]:
    """A bare FAISS index of each modality's vectors, and the queries' vectors for it."""
    faiss, gpu, rule = import_faiss(), choose_gpu(device), RULES["mixer"]
    unit = normalised(query, rule, None)
    pairs = []
    for modality in Modality:
        items = normalised(gallery[gallery.modality == modality], rule, None)
        vectors = item_vectors(items, rule, modality)
        index = faiss.index_factory(vectors.shape[1], "Flat", faiss.METRIC_INNER_PRODUCT)
        index.add(vectors)
        if gpu:
            index = faiss.index_cpu_to_gpu(gpu.resources, gpu.number, index)
        pairs.append((index, query_vectors(unit, rule, modality)))
    return pairs


def measure(rounds: int, width: int, device: str) -> dict[str, Any]:
    """Seconds, ratios to the bare search by statistic, and recall by factory string."""
    gallery = make_features(width)
    rows = torch.arange(0, len(gallery), EVERY)
    query = gallery[rows]
    flat = MixedModalIndex.build(gallery, device=device)
    pairs = faiss_pairs(gallery, query, device)
    contestants = {
        "faiss": lambda: [index.search(vectors, K) for index, vectors in pairs],
        "search": lambda: flat.search(query, K),
        "excluding": lambda: flat.search(query, K, exclude=rows, setting="mix-cam"),
    }
    seconds = harness.take_turns(contestants, rounds, device=device).seconds["wall"]
    recall = []
    for factory, parameters in FACTORIES:
        index = MixedModalIndex.build(gallery, factory=factory, parameters=parameters, device="cpu")
        report = recall_report(index, query, flat, k=(1, K))
        recall.append({"parameters": parameters, **vars(report)})
    return {
        "faiss": import_faiss().__version__,
        "gallery": len(gallery),
        "queries": len(query),
        "width": width,
        "repetitions": rounds,
        "seconds": seconds,
        "ratios": harness.ratios(seconds),
        "recall": recall,
    }


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and, if asked, writes JSON."""
    parser = harness.speed_parser(__doc__, 7, "--repetitions")
    parser.add_argument("--width", type=int, default=2048, help="of each feature")
    options = harness.parse(parser, argv, least=5)
    import_faiss().omp_set_num_threads(options.threads)
    found = measure(options.rounds, options.width, options.device)
    report = harness.environment(options.device) | found
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
    harness.write_json(options.out, report)


if __name__ == "__main__":
    sys.exit(run_command("search_speed", main))
