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
What it spends on ranking is the rest over "tiles". All take turns; read the ratio of the minima and
of the medians, and of the processor time, which other load disturbs least.

With ``--queries`` and ``--items`` the same at another size (infrared images up to the number of
queries, the rest visible); ``--once`` runs the evaluation once, reports its peak memory beside the
features, and then the time of the plain product.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.evaluation.ranking.gallery_layout import Gallery, arrange
from mixer_plugin.evaluation.ranking.metrics import cmc, nan_mean
from mixer_plugin.evaluation.ranking.rank import block_rows, in_threads, rank
from mixer_plugin.evaluation.ranking.scoring import Queries, Score, cosine_scores
from mixer_plugin.evaluation.settings import SETTINGS, Groups, SettingMask, find_groups, view
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.io.console import run_command
from mixer_plugin.matching.normalized import unit_source
from mixer_plugin.matching.rules import System, check_rules
from mixer_plugin.matching.similarity import full_float32, products, tile
from mixer_plugin.matching.workspace import Workspace

# Test images per camera (96 identities; two thirds of them in cameras 1 and 2), as in SYSU-MM01.
IMAGES = {1: 1374, 2: 1565, 3: 1883, 4: 1918, 5: 1918, 6: 1920}
IDENTITIES = {1: 56, 2: 56, 3: 93, 4: 94, 5: 95, 6: 96}
RULES = check_rules(["mixer"])
TRIALS = 10


def make_features(
    width: int = 2048, seed: int = 0, queries: int | None = None, items: int | None = None
) -> FeatureSet:
    """Random features, erased and related, with some identity in them.

    As many as SYSU-MM01's test set has, or that many infrared (``queries``) and ``items`` in all.
    """
    rng = np.random.default_rng(seed)
    counts, identities = dict(IMAGES), dict(IDENTITIES)
    if queries is not None and items is not None:
        for side, images in (((3, 6), queries), ((1, 2, 4, 5), items - queries)):
            real = sum(IMAGES[cam] for cam in side)
            counts |= {cam: images * IMAGES[cam] // real for cam in side}
            counts[side[-1]] += images - sum(counts[cam] for cam in side)
        identities = {cam: max(IDENTITIES[cam] * items // 10578, 1) for cam in IMAGES}
    cams = np.repeat(list(counts), list(counts.values()))
    ids = np.concatenate([1 + np.arange(counts[cam]) % identities[cam] for cam in counts])

    def features() -> torch.Tensor:
        centers = rng.standard_normal((int(ids.max()) + 1, width), dtype=np.float32)
        made = rng.standard_normal((len(ids), width), dtype=np.float32)
        for start in range(0, len(ids), 4096):
            made[start : start + 4096] += centers[ids[start : start + 4096]] * np.float32(0.3)
        return torch.from_numpy(made)

    modality = np.isin(cams, (3, 6)).astype(np.int64)
    return FeatureSet(features(), features(), ids, cams, modality)


def seven_views(groups: Groups) -> list[SettingMask]:
    """The six settings with all cameras, and ``cross`` with cameras 1 and 2."""
    views = [view(name, groups, ((2, 3),)) for name in SETTINGS]
    indoor = np.isin(groups.camera, (1, 2))
    listed = views[0].listed & indoor
    return [*views, SettingMask("cross, indoor", listed, listed, views[0].gallery & indoor)]


def draw_single_shot(features: FeatureSet, trials: int) -> list[NDArray[np.int64]]:
    """One random image of each identity and camera, per trial."""
    rng = np.random.default_rng(1)
    keys = features.ids.cpu().numpy() * 100 + features.cams.cpu().numpy()
    orders = [rng.permutation(len(keys)) for _ in range(trials)]
    return [np.sort(order[np.unique(keys[order], return_index=True)[1]]) for order in orders]


def whole(features: FeatureSet) -> NDArray[np.int64]:
    """The gallery of all images, as a draw."""
    return np.arange(len(features), dtype=np.int64)


def layout(
    features: FeatureSet, draws: Sequence[NDArray[np.int64]]
) -> tuple[Gallery, Groups, NDArray[np.int64]]:
    """The draws in the order of ranking, the groups and the identities they are ordered by."""
    modality, cams, ids = (
        value.cpu().numpy() for value in (features.modality, features.cams, features.ids)
    )
    groups = find_groups(modality, cams)
    identity = np.unique(ids, return_inverse=True)[1].reshape(-1)
    return arrange(draws, groups, identity, features.erased.device), groups, identity


def rank_views(
    features: FeatureSet,
    draws: Sequence[NDArray[np.int64]],
    asked: NDArray[np.int64],
    key: System,
    score: Callable[[Gallery], Score],
) -> dict[str, float]:
    """All metrics of the seven settings for the infrared rows asked; mAPs in the last draw."""
    gallery, groups, identity = layout(features, draws)
    device = features.erased.device
    queries = Queries.of_rows(asked, groups, identity, int(Modality.INFRARED), device)
    views = seven_views(groups)
    found = rank(queries, gallery, score(gallery), [key], views, dedup=True)[key]
    cmc(found.first)
    nan_mean(found.inp, axis=-1)
    means = nan_mean(found.ap, axis=-1)[-1]
    return {each.name: float(value) for each, value in zip(views, means, strict=True)}


def evaluation(features: FeatureSet, draws: Sequence[NDArray[np.int64]]) -> dict[str, float]:
    """MAP of the seven settings in the last draw, from the feature set on."""

    def score(gallery: Gallery) -> Score:
        return cosine_scores(unit_source(features, RULES), gallery, [("mixer", None)])

    asked = np.flatnonzero(features.modality.cpu().numpy() == Modality.INFRARED)
    return rank_views(features, draws, asked, ("mixer", None), score)


def bare_products(features: FeatureSet) -> dict[str, Callable[[], None]]:
    """The products alone, on features normalised and in order: plain, and in our tiles."""
    source, device = unit_source(features, RULES), features.erased.device
    split = int((features.modality == Modality.VISIBLE).sum())
    gallery = source.rows(torch.argsort(features.modality, stable=True))
    rows = (features.modality == Modality.INFRARED).nonzero().flatten()
    blocks = [source.rows(block).parts for block in torch.split(rows, 512)]
    tiles = tile(split, len(features), device)

    def plain() -> None:
        with full_float32(device):
            for block in blocks:
                block["erased"] @ gallery.parts["erased"].T
                block["related"] @ gallery.parts["related"][split:].T

    def work(rows: torch.Tensor, workspace: Workspace) -> None:
        products(source.rows(rows), gallery, tiles, int(Modality.INFRARED), RULES, workspace)

    def tiled() -> None:
        with full_float32(device):
            in_threads(work, torch.split(rows, block_rows(len(features), device)), device)

    return {"product": plain, "tiles": tiled}


def measure(features: FeatureSet, rounds: int) -> dict[str, Any]:
    """Seconds of all by the wall clock and the processor, their statistics and ratios."""
    trials = [*draw_single_shot(features, TRIALS), whole(features)]
    contestants: dict[str, Callable[[], object]] = {
        **bare_products(features),
        "evaluation": lambda: evaluation(features, trials[-1:]),
        "trials": lambda: evaluation(features, trials),
    }
    turns = harness.take_turns(contestants, rounds, device=features.erased.device.type)
    report: dict[str, Any] = {"repetitions": rounds, "seconds": turns.seconds}
    for clock, runs in turns.seconds.items():
        over = harness.ratios(runs)
        for statistic, values in harness.summary(runs).items():
            own = {f"{name}_ratio": ratio for name, ratio in over[statistic].items()}
            report[f"{clock}_{statistic}"] = values | own
    return report | ({"peak_bytes": turns.peaks} if turns.peaks else {})


def measure_once(features: FeatureSet) -> dict[str, Any]:
    """Seconds and peak memory, beyond the features, of one evaluation; seconds of its product."""
    seconds: harness.Seconds = {}
    means: dict[str, float] = {}
    device = features.erased.device.type
    # Loads what a first run loads, whose time and memory are not the evaluation's.
    few = make_features(features.erased.shape[1], queries=60, items=200).to(device)
    evaluation(few, [whole(few)])
    bare_products(few)["product"]()

    def run() -> None:
        with harness.timed(seconds, "evaluation", device=device):
            means.update(evaluation(features, [whole(features)]))

    beside = harness.peak_memory(device, run) / 1e9
    plain = bare_products(features)["product"]
    with harness.timed(seconds, "product", device=device):
        plain()
    taken, product = (seconds["wall"][name][0] for name in ("evaluation", "product"))
    return {
        "seconds": taken,
        "product_seconds": product,
        "ratio": taken / product,
        "gigabytes_beside_features": beside,
        "mAP": means,
    }


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and, if asked, writes JSON."""
    parser = harness.speed_parser(__doc__, 7, "--repetitions")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--queries", type=int, help="infrared images")
    parser.add_argument("--items", type=int, help="all images")
    parser.add_argument("--once", action="store_true", help="one evaluation: time and memory")
    options = harness.parse(parser, argv, least=5)
    if (options.queries is None) != (options.items is None):
        parser.error("--queries and --items go together")
    features = make_features(options.width, queries=options.queries, items=options.items)
    features = features if options.device == "cpu" else features.to(options.device)
    numbers = {"queries": int(features.modality.sum()), "items": len(features)}
    report = harness.environment(options.device) | numbers | {"width": options.width}
    print(", ".join(f"{name} {value}" for name, value in report.items()))
    report |= measure_once(features) if options.once else measure(features, options.rounds)
    if options.once:
        beside = f"{report['gigabytes_beside_features']:.2f} GB beside the features"
        print(f"{report['seconds']:.1f} s, {report['ratio']:.2f} of its product; {beside}")
    for name, values in report.items():
        if isinstance(values, dict) and "product" in values:
            print(f"{name:12s} " + "  ".join(f"{k} {v:.3f}" for k, v in values.items()))
    harness.write_json(options.out, report)


if __name__ == "__main__":
    sys.exit(run_command("eval_speed", main))
