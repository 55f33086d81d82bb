"""How long does k-reciprocal re-ranking take, and how much memory, beside a public implementation?

    python -m mixer_plugin.benchmarks.speed.rerank_speed [--images 10578] [--out rerank_speed.json]
        [--peer FOLDER --function utils.rerank:re_ranking] [--repetitions 3]

Synthetic features of width 2,048, as many as SYSU-MM01's test images (3,803 infrared queries and
6,775 visible gallery items) or, in that proportion, ``--images``. k1 = 20, k2 = 6, weight 0.3,
neighbours searched among all images; both sides start from the features and make their products.

``--peer`` is a checkout of a public repository and ``--function`` its function: either of features,
``f(q_feat, g_feat, k1, k2, lambda_value)`` (MPANet, IDKL: ``utils.rerank:re_ranking``), or of
matrices of Euclidean distances, ``f(q_g, q_q, g_g, k1, k2, lambda_value)`` (torchreid, fast-reid).
Both run in turn, so that other load on the machine meets both alike; read the ratio of the minima,
of the medians, and of the processor time. Peak resident memory is that of processes of their own.
Without ``--peer`` ours is measured alone.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.benchmarks.speed.eval_speed import IDENTITIES, IMAGES
from mixer_plugin.evaluation.rerank.methods import KReciprocal, rerank

_ALL = sum(IMAGES.values())
_QUERIES = IMAGES[3] + IMAGES[6]
_WIDTH = 2048


def make_features(images: int, seed: int = 0) -> tuple[Tensor, int]:
    """L2-normalised float32 [N, 2048] with identities, cameras and noise; the queries come first.

    Args:
        images: N, at least 20.
        seed: Of the random numbers.

    Returns:
        The features and the number of queries.
    """
    rng = np.random.default_rng(seed)
    queries = round(images * _QUERIES / _ALL)
    cams = np.concatenate([np.arange(queries) % 2, 2 + np.arange(images - queries) % 4])
    ids = rng.integers(0, max(IDENTITIES.values()), images)
    made = torch.empty(images, _WIDTH)
    centers, places, pairs = (
        rng.standard_normal(shape, dtype=np.float32)
        for shape in ((96, _WIDTH), (6, _WIDTH), (96 * 6, _WIDTH))
    )
    for start in range(0, images, 1024):
        rows = slice(start, min(start + 1024, images))
        value = centers[ids[rows]] + 0.6 * places[cams[rows]] + pairs[ids[rows] * 6 + cams[rows]]
        value += 3.0 * rng.standard_normal(value.shape, dtype=np.float32)
        made[rows] = torch.nn.functional.normalize(torch.from_numpy(value))
    return made, queries


def ours(features: Tensor, queries: int) -> Tensor:
    """Float32 [Q, G], higher is more alike."""
    index = torch.arange(len(features))
    return rerank(
        KReciprocal(),
        lambda rows: features[rows] @ features.T,
        index[:queries],
        index[queries:],
    )


def load_peer(folder: Path, function: str) -> Callable[[Tensor, int], np.ndarray]:
    """The public function as one of features and number of queries; it gives distances [Q, G]."""
    module, _, name = function.partition(":")
    sys.path.insert(0, str(folder))
    found = getattr(importlib.import_module(module), name)
    options: dict[str, Any] = {"k1": 20, "k2": 6, "lambda_value": 0.3}
    parameters = list(inspect.signature(found).parameters)
    if "eval_type" in parameters:
        options["eval_type"] = False  # neighbours among all images

    def run(features: Tensor, queries: int) -> np.ndarray:
        query, gallery = features[:queries], features[queries:]
        if "feat" in parameters[0]:
            return np.asarray(found(query, gallery, **options))
        matrices = [
            (2 - 2 * left @ right.T).clamp(min=0).sqrt().numpy()
            for left, right in ((query, gallery), (query, query), (gallery, gallery))
        ]
        return np.asarray(found(*matrices, **options))

    return run


def compare(mine: Tensor, theirs: np.ndarray) -> dict[str, Any]:
    """How far the two agree.

    Args:
        mine: float32 [Q, G], 1 - weight minus the distance.
        theirs: [Q, G], distances.

    Returns:
        Largest difference of the distances; shares of the queries with the same first item, the
        same first twenty and the same whole order; share of pairs of neighbours in our order that
        theirs orders otherwise, and the largest difference of their distances in such a pair.
    """
    distance = (1 - KReciprocal().weight) - mine.double().numpy()
    a = np.argsort(-mine.numpy(), axis=1, kind="stable")
    b = np.argsort(theirs, axis=1, kind="stable")
    steps = np.diff(np.take_along_axis(theirs.astype(np.float64), a, axis=1), axis=1)
    return {
        "dtype": str(theirs.dtype),
        "largest_difference": float(np.abs(distance - theirs).max()),
        "same_first": float((a[:, 0] == b[:, 0]).mean()),
        "same_first_20": float((a[:, :20] == b[:, :20]).all(axis=1).mean()),
        "same_order": float((a == b).all(axis=1).mean()),
        "pairs_swapped": float((steps < 0).mean()),
        "largest_swapped": float(-min(steps.min(), 0.0)),
    }


def measure(
    images: int, repetitions: int, peer: Callable[[Tensor, int], np.ndarray] | None
) -> dict[str, Any]:
    """Times both in turn.

    Args:
        images: Queries and gallery items together.
        repetitions: Timed runs of each.
        peer: From ``load_peer``, or None.

    Returns:
        Seconds of the wall clock and of the processor and, with a peer, ratios and agreement.
    """
    features, queries = make_features(images)
    tasks: dict[str, Callable[[], Any]] = {
        "product": lambda: [rows @ features.T for rows in torch.split(features, 1024)] and None,
        "ours": lambda: ours(features, queries),
    }
    if peer is not None:
        tasks["peer"] = lambda: peer(features, queries)
    wall: dict[str, list[float]] = {name: [] for name in tasks}
    cpu: dict[str, list[float]] = {name: [] for name in tasks}
    made: dict[str, Any] = {}
    for _ in range(repetitions):
        for name, task in tasks.items():
            made.pop(name, None)
            start, busy = time.perf_counter(), time.process_time()
            made[name] = task()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - busy)
    report: dict[str, Any] = {
        "images": images,
        "queries": queries,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "wall": wall,
        "cpu": cpu,
    }
    if peer is not None:
        for clock, runs in (("wall", wall), ("cpu", cpu)):
            for statistic, function in (("minimum", min), ("median", np.median)):
                ratio = float(function(runs["peer"])) / float(function(runs["ours"]))
                report[f"{clock}_{statistic}_ratio"] = ratio
        report["agreement"] = compare(made["ours"], made["peer"])
    return report


def peak(name: str, arguments: argparse.Namespace) -> float:
    """Peak resident memory in GB of a process that makes the features and runs one side once."""
    command = [sys.executable, "-m", "mixer_plugin.benchmarks.speed.rerank_speed", "--only", name]
    command += ["--images", str(arguments.images), "--function", arguments.function]
    command += ["--peer", str(arguments.peer)] if arguments.peer else []
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and, if asked, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=_ALL, help="queries and gallery items")
    parser.add_argument("--peer", type=Path, help="checkout of a public repository")
    parser.add_argument("--function", default="utils.rerank:re_ranking", help="module:function")
    parser.add_argument("--repetitions", type=int, default=3, help="timed runs of each")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--only", choices=("ours", "peer"), help="run one side once, print its peak"
    )
    arguments = parser.parse_args(argv)
    if arguments.images < 20 or arguments.repetitions < 1:
        parser.error("--images must be at least 20 and --repetitions at least 1")
    if arguments.only == "peer" and arguments.peer is None:
        parser.error("--only peer needs --peer")
    peer = load_peer(arguments.peer, arguments.function) if arguments.peer else None
    if arguments.only:
        features, queries = make_features(arguments.images)
        if arguments.only == "ours":
            ours(features, queries)
        elif peer is not None:
            peer(features, queries)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)  # Linux: KiB
        return
    # First of all: a child begins with the peak of its parent.
    sides = ("ours", "peer") if peer else ("ours",)
    peaks = {name: peak(name, arguments) for name in sides}
    report = measure(arguments.images, arguments.repetitions, peer)
    report |= {"function": arguments.function if peer else None, "peak_gb": peaks}
    print(json.dumps(report, indent=2))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
