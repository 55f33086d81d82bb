"""How much longer is a whole evaluation than the similarity product it is made from?

    python -m mixer_plugin.benchmarks.speed.eval_speed [--out eval_speed.json] [--repetitions 7]
        [--device cuda] [--width 2048] [--queries 3803] [--items 10578] [--once]

SYSU-MM01-shaped random features (3,803 infrared queries, 10,578 gallery items, width 2,048, erased
and related, 96 identities, the six cameras), rule ``mixer``. Evaluation: from the feature set to
the metrics of seven settings in one pass: the six with all cameras, and ``cross`` with the indoor
ones; "trials" has ten random single-shot galleries as well, each in all seven. Product: the same
float32 products in blocks of 512 queries by plain ``@`` on normalised features in order, and
nothing else. "tiles" are the same products in the blocks and tiles that the evaluation makes them
in; they fit the cache better, so that the whole evaluation can take as long as the plain product.
What it spends on ranking is the rest over "tiles". All run in turn, so that other load on the
machine meets them alike; read the ratio of the minima and of the medians, and of the processor
time, which other load disturbs least.

With ``--queries`` and ``--items`` the same at another size (infrared images up to the number of
queries, the rest visible); ``--once`` runs the evaluation alone, once, and reports peak memory
beside the features.
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
from numpy.typing import NDArray

from mixer_plugin.evaluation.ranking.gallery_layout import arrange
from mixer_plugin.evaluation.ranking.metrics import QueryMetrics, cmc, nan_mean
from mixer_plugin.evaluation.ranking.rank import block_rows, in_threads, rank
from mixer_plugin.evaluation.ranking.scoring import Queries, cosine_scores
from mixer_plugin.evaluation.settings import SETTINGS, Groups, SettingMask, find_groups, view
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.normalized import unit_source
from mixer_plugin.matching.rules import check_rules
from mixer_plugin.matching.similarity import full_float32, products, tile
from mixer_plugin.matching.workspace import Workspace

# Test images per camera (96 identities; two thirds of them in cameras 1 and 2), as in SYSU-MM01.
IMAGES = {1: 1374, 2: 1565, 3: 1883, 4: 1918, 5: 1918, 6: 1920}
IDENTITIES = {1: 56, 2: 56, 3: 93, 4: 94, 5: 95, 6: 96}
COLOCATED = ((2, 3),)
RULES = check_rules(["mixer"])
KEY = ("mixer", None)
TRIALS = 10


def make_features(
    width: int = 2048, seed: int = 0, queries: int | None = None, items: int | None = None
) -> FeatureSet:
    """Random features of SYSU-MM01's test set in numbers, with some identity in them.

    Args:
        width: Of erased and related features each.
        seed: Of the random numbers.
        queries: Number of infrared images; None: as in SYSU-MM01.
        items: Number of all images; None: as in SYSU-MM01.
    """
    rng = np.random.default_rng(seed)
    counts, identities = dict(IMAGES), dict(IDENTITIES)
    if queries is not None and items is not None:
        sides = {3: queries, 6: queries} | dict.fromkeys((1, 2, 4, 5), items - queries)
        whole = {cam: sum(IMAGES[c] for c in IMAGES if (c in (3, 6)) == (cam in (3, 6)))
                 for cam in IMAGES}  # fmt: skip
        counts = {cam: sides[cam] * IMAGES[cam] // whole[cam] for cam in IMAGES}
        counts[6] += queries - counts[3] - counts[6]
        counts[5] += items - sum(counts.values())
        identities = {cam: max(IDENTITIES[cam] * items // 10578, 1) for cam in IMAGES}
    cams = np.repeat(list(counts), list(counts.values()))
    ids = np.concatenate([1 + np.arange(counts[cam]) % identities[cam] for cam in counts])
    modality = np.isin(cams, (3, 6)).astype(np.int64)

    def features() -> torch.Tensor:
        centers = rng.standard_normal((int(ids.max()) + 1, width), dtype=np.float32)
        made = rng.standard_normal((len(ids), width), dtype=np.float32)
        for start in range(0, len(ids), 4096):
            made[start : start + 4096] += centers[ids[start : start + 4096]] * np.float32(0.3)
        return torch.from_numpy(made)

    return FeatureSet(features(), features(), ids, cams, modality)


def seven_views(groups: Groups) -> list[SettingMask]:
    """The six settings with all cameras, and ``cross`` with cameras 1 and 2."""
    views = [view(name, groups, COLOCATED) for name in SETTINGS]
    cross = views[0]
    indoor = np.isin(groups.camera, (1, 2))
    listed = cross.listed & indoor
    return [*views, SettingMask("cross, indoor", listed, listed, cross.gallery & indoor)]


def draw_single_shot(features: FeatureSet, trials: int) -> list[NDArray[np.int64]]:
    """One random image of each identity and camera, per trial."""
    rng = np.random.default_rng(1)
    keys = features.ids.cpu().numpy() * 100 + features.cams.cpu().numpy()
    draws = []
    for _ in range(trials):
        order = rng.permutation(len(keys))
        draws.append(np.sort(order[np.unique(keys[order], return_index=True)[1]]))
    return draws


def evaluation(features: FeatureSet, draws: list[NDArray[np.int64]]) -> dict[str, float]:
    """MAP of the seven settings in the last draw, from the feature set on."""
    modality, cams, ids = (
        value.cpu().numpy() for value in (features.modality, features.cams, features.ids)
    )
    device = features.erased.device
    groups = find_groups(modality, cams)
    identity = np.unique(ids, return_inverse=True)[1].reshape(-1)
    gallery = arrange(draws, groups, identity, device)
    score = cosine_scores(unit_source(features, RULES), gallery, [KEY])
    at = np.flatnonzero(modality == Modality.INFRARED)
    queries = Queries.of_rows(at, groups, identity, int(Modality.INFRARED), device)
    views = seven_views(groups)
    return _means(rank(queries, gallery, score, [KEY], views, dedup=True)[KEY], views)


def _means(found: QueryMetrics, views: list[SettingMask]) -> dict[str, float]:
    cmc(found.first)
    nan_mean(found.inp, axis=-1)
    means = nan_mean(found.ap, axis=-1)[-1]
    return {each.name: float(value) for each, value in zip(views, means, strict=True)}


def prepare_product(features: FeatureSet) -> Callable[[], None]:
    """The products alone, on features that are already normalised and in order."""
    source = unit_source(features, RULES)
    split = int((features.modality == Modality.VISIBLE).sum())
    gallery = source.rows(torch.argsort(features.modality, stable=True)).parts
    rows = (features.modality == Modality.INFRARED).nonzero().flatten()
    blocks = [source.rows(rows[start : start + 512]).parts for start in range(0, len(rows), 512)]

    def run() -> None:
        with full_float32(features.erased.device):
            for block in blocks:
                block["erased"] @ gallery["erased"].T
                block["related"] @ gallery["related"][split:].T

    return run


def prepare_tiles(features: FeatureSet) -> Callable[[], None]:
    """The products alone, on normalised features in order, as the evaluation makes them."""
    source = unit_source(features, RULES)
    gallery = source.rows(torch.argsort(features.modality, stable=True))
    device = features.erased.device
    tiles = tile(int((features.modality == Modality.VISIBLE).sum()), len(features), device)
    rows = (features.modality == Modality.INFRARED).nonzero().flatten()
    size = block_rows(len(features), device)

    def work(rows: torch.Tensor, workspace: Workspace) -> None:
        products(source.rows(rows), gallery, tiles, int(Modality.INFRARED), RULES, workspace)

    def run() -> None:
        with full_float32(device):
            in_threads(work, torch.split(rows, size), device)

    return run


def measure(features: FeatureSet, repetitions: int) -> dict[str, Any]:
    """Times all in turn.

    Args:
        features: What is evaluated.
        repetitions: Timed runs of each, after one of each that is not timed.

    Returns:
        Seconds of the wall clock and of the processor, their minima, medians and ratios.
    """
    whole = np.arange(len(features), dtype=np.int64)
    trials = [*draw_single_shot(features, TRIALS), whole]
    tasks: dict[str, Callable[[], object]] = {
        "product": prepare_product(features),
        "tiles": prepare_tiles(features),
        "evaluation": lambda: evaluation(features, [whole]),
        "trials": lambda: evaluation(features, trials),
    }
    cuda = features.erased.is_cuda
    seconds: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in tasks} for clock in ("wall", "cpu")
    }
    for turn in range(repetitions + 1):
        for name, task in tasks.items():
            wall, cpu = time.perf_counter(), time.process_time()
            task()
            if cuda:
                torch.cuda.synchronize()
            if turn:
                seconds["wall"][name].append(time.perf_counter() - wall)
                seconds["cpu"][name].append(time.process_time() - cpu)
    report: dict[str, Any] = {"repetitions": repetitions, "seconds": seconds}
    for clock, runs in seconds.items():
        for statistic, function in (("minimum", min), ("median", np.median)):
            values = {name: float(function(runs[name])) for name in tasks}
            ratios = {f"{name}_ratio": values[name] / values["product"] for name in list(tasks)[1:]}
            report[f"{clock}_{statistic}"] = values | ratios
    return report


def measure_once(features: FeatureSet) -> dict[str, Any]:
    """Runs the evaluation once.

    Returns:
        Seconds, and peak memory of the process (or GPU) beyond what it held with the features.
    """
    cuda = features.erased.is_cuda
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:  # forgets the peak of making the features
        Path("/proc/self/clear_refs").write_text("5")
    before = torch.cuda.memory_allocated() if cuda else _status("VmRSS")
    start = time.perf_counter()
    means = evaluation(features, [np.arange(len(features), dtype=np.int64)])
    seconds = time.perf_counter() - start
    after = torch.cuda.max_memory_allocated() if cuda else _status("VmHWM")
    return {"seconds": seconds, "gigabytes_beside_features": (after - before) / 1e9, "mAP": means}


def _status(name: str) -> int:
    """Bytes, of Linux's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}; this measurement needs Linux.")


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and, if asked, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--repetitions", type=int, default=7, help="timed runs of each (>= 5)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--queries", type=int, help="infrared images")
    parser.add_argument("--items", type=int, help="all images")
    parser.add_argument("--once", action="store_true", help="time and memory of one evaluation")
    arguments = parser.parse_args(argv)
    if arguments.repetitions < 5:
        parser.error(f"--repetitions must be at least 5, got {arguments.repetitions}")
    if (arguments.queries is None) != (arguments.items is None):
        parser.error("--queries and --items go together")
    features = make_features(arguments.width, queries=arguments.queries, items=arguments.items)
    features = features if arguments.device == "cpu" else features.to(arguments.device)
    cuda = features.erased.is_cuda
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "queries": int(features.modality.sum()),
        "items": len(features),
        "width": arguments.width,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    print(", ".join(f"{name} {value}" for name, value in report.items()))
    if arguments.once:
        report |= measure_once(features)
        print(
            f"{report['seconds']:.1f} s, {report['gigabytes_beside_features']:.2f} GB beside "
            "the features"
        )
    else:
        report |= measure(features, arguments.repetitions)
        for name, values in report.items():
            if isinstance(values, dict) and "product" in values:
                print(f"{name:12s} " + "  ".join(f"{k} {v:.3f}" for k, v in values.items()))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
