"""How long does k-reciprocal re-ranking take, and how much memory, beside a public implementation?

    python -m mixer_plugin.benchmarks.speed.rerank_speed [--images 10578] [--out rerank_speed.json]
        [--peer FOLDER --function utils.rerank:re_ranking] [--repetitions 3]

Synthetic features of width 2,048, as many as SYSU-MM01's test images (3,803 infrared queries and
6,775 visible gallery items) or, in that proportion, ``--images``. k1 = 20, k2 = 6, weight 0.3,
neighbours searched among all images; both sides start from the features and make their products.

``--peer`` is a checkout of a public repository and ``--function`` its function: either of features,
``f(q_feat, g_feat, k1, k2, lambda_value)`` (MPANet, IDKL: ``utils.rerank:re_ranking``), or of
matrices of Euclidean distances, ``f(q_g, q_q, g_g, k1, k2, lambda_value)`` (torchreid, fast-reid).
Both take turns; read the ratio of the minima, of the medians, and of the processor time. Peak
resident memory is that of processes of their own. Without ``--peer`` ours is measured alone. With
``--device cuda`` ours runs on the GPU, and memory is its tensors'; the peer stays on the CPU.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.speed.eval_speed import IDENTITIES, IMAGES
from mixer_plugin.evaluation.rerank.methods import KReciprocal, rerank
from mixer_plugin.io.console import run_command

_ALL = sum(IMAGES.values())
_QUERIES = IMAGES[3] + IMAGES[6]
_WIDTH = 2048

Peer = Callable[[Tensor, int], np.ndarray]  # of features and the number of queries


def make_features(images: int, seed: int = 0) -> tuple[Tensor, int]:
    """L2-normalised float32 [N, 2048] with identities, cameras and noise; number of queries.

    There are at least 20 images, and the queries come first.
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
    index = torch.arange(len(features), device=features.device)
    similarity = lambda rows: features[rows] @ features.T  # noqa: E731
    return rerank(KReciprocal(), similarity, index[:queries], index[queries:])


def load_peer(folder: Path, function: str) -> Peer:
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


def measure(images: int, rounds: int, peer: Peer | None, device: str = "cpu") -> dict[str, Any]:
    """Seconds of ours on a device, of its product and, with a peer, ratios and agreement."""
    features, queries = make_features(images)
    own = features.to(device)
    contestants: dict[str, Callable[[], Any]] = {
        "product": lambda: [rows @ own.T for rows in torch.split(own, 1024)] and None,
        "ours": partial(ours, own, queries),
    }
    if peer is not None:
        contestants["peer"] = partial(peer, features, queries)
    warm_up = 0 if device == "cpu" else None
    turns = harness.take_turns(contestants, rounds, device=device, warm_up=warm_up)
    report = harness.environment(device) | {"images": images, "queries": queries, **turns.seconds}
    if peer is not None:
        for clock, runs in turns.seconds.items():
            for statistic, over in harness.ratios(runs, "ours").items():
                report[f"{clock}_{statistic}_ratio"] = over["peer"]
        report["agreement"] = compare(turns.results["ours"].cpu(), turns.results["peer"])
    return report


def peak(side: str, options: argparse.Namespace) -> int:
    """Bytes at the peak of this process, or of the GPU's tensors, in which one side runs once."""
    features, queries = make_features(options.images)
    if side == "peer":
        load_peer(options.peer, options.function)(features, queries)
    else:
        ours(features.to(options.device), queries)
    cuda = options.device == "cuda" and side == "ours"
    return torch.cuda.max_memory_allocated() if cuda else harness.resident("VmHWM")


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and, if asked, writes JSON."""
    parser = harness.speed_parser(__doc__, 3, "--repetitions")
    parser.add_argument("--images", type=int, default=_ALL, help="queries and gallery items")
    parser.add_argument("--peer", type=Path, help="checkout of a public repository")
    parser.add_argument("--function", default="utils.rerank:re_ranking", help="module:function")
    options = harness.parse(parser, argv)
    if options.images < 20:
        parser.error(f"--images must be at least 20, got {options.images}")
    peer = load_peer(options.peer, options.function) if options.peer else None
    report = measure(options.images, options.rounds, peer, options.device)
    report["function"] = options.function if peer else None
    sides = ("ours", "peer") if peer else ("ours",)
    report["peak_gb"] = {s: harness.in_own_process(peak, s, options) / 1e9 for s in sides}
    print(json.dumps(report, indent=2))
    harness.write_json(options.out, report)


if __name__ == "__main__":
    sys.exit(run_command("rerank_speed", main))
