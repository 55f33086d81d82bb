"""How much quicker are seven settings at once than the public evaluators, one after another?

    python -m mixer_plugin.benchmarks.speed.evaluator_peers --codebases DIR [--queries 512] \
        [--out JSON]

DIR holds checkouts under their repositories' names, and what is missing is left out: ``MPANet``,
``DDAG``, ``deep-person-reid`` (torchreid) and ``fast-reid``, the last two with their Cython
evaluators built: in ``torchreid/metrics/rank_cylib`` and ``fastreid/evaluation/rank_cylib``, run
``python setup.py build_ext --inplace`` (needs Cython).

Everybody gets the same float32 similarities of SYSU-MM01-shaped random features (10,578 gallery
items, six cameras, 96 identities, about 112 images of each query's identity), so that the product
is in nobody's time. One thread, on the CPU. All take turns. A public evaluator does one setting, by
its own rule, and is counted seven times; since seven calls could share one argsort, the time with
six argsorts taken off is given as well. mAP differs by the order of float32 ties, which their sorts
leave open.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.speed.eval_speed import IDENTITIES, IMAGES, layout, rank_views, whole
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import evaluate
from mixer_plugin.evaluation.ranking.scoring import given_scores
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.io.console import run_command
from mixer_plugin.matching import scores

SETTINGS_COUNTED = 7
# With identity vectors of this length under unit noise in 512 dimensions, the official single-shot
# mAP is near 60 %, as of a good network on SYSU-MM01; the report says what it is.
_WIDTH, _IDENTITY = 512, 0.365
_SAME_RULE = dict.fromkeys(("torchreid cython", "fast-reid cython"), "mix-cam-id")
_SAME_RULE |= {"MPANet": "mix-cam"}
_TARGETS = {"torchreid cython": 15, "fast-reid cython": 15, "MPANet": 120}


class _StandIn(types.ModuleType):
    """A module of which an evaluator's file imports names that its evaluation does not use."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def find_evaluator(file: Path) -> Path | None:
    """The file if it is there; without a suffix (``…/rank_cy``): the extension module."""
    names = [file.name] if file.suffix else [file.name + suffix for suffix in EXTENSION_SUFFIXES]
    return next((path for path in map(file.with_name, names) if path.is_file()), None)


def load_evaluator(file: Path) -> Any:
    """Imports one file of a checkout, with stand-ins for what is not its own business.

    Nothing is written into the checkout, and no module stays imported under a public name.

    Args:
        file: A Python file or an extension module, as found by ``find_evaluator``.

    Returns:
        The module.
    """
    package = "peer_" + "_".join(file.resolve().parts[-4:-1])
    absent = ("sklearn", "sklearn.preprocessing", "models", "models.AIM", package)
    stand_ins = {name: _StandIn(name) for name in (*absent, f"{package}.rerank")}
    for module in stand_ins.values():
        module.__path__ = []
    before = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    writing, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    spec = importlib.util.spec_from_file_location(f"{package}.{file.name.partition('.')[0]}", file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    try:
        sys.modules.update(stand_ins)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Cython evaluation is unavailable": it has its file
            spec.loader.exec_module(loaded)
    finally:
        sys.dont_write_bytecode = writing
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(before)
    return loaded


@dataclass(frozen=True)
class Case:
    """What everybody ranks.

    Attributes:
        features: The whole set; every image is in the gallery.
        asked: int64 [Q], the rows that query, infrared.
        distance: float32 [Q, G], minus the similarities, columns in the order of the rows.
        grouped: float32 [Q, G], the similarities with columns as our gallery orders them.
        mean_ap: mAP of the official single-shot protocol with all of the infrared queries.
    """

    features: FeatureSet
    asked: NDArray[np.int64]
    distance: NDArray[np.float32]
    grouped: torch.Tensor
    mean_ap: float


def make_case(queries: int, seed: int = 0) -> Case:
    """Random features of SYSU-MM01's test set in numbers, about as hard as the real ones."""
    rng = np.random.default_rng(seed)
    cams = np.repeat(list(IMAGES), list(IMAGES.values()))
    # Camera 4 sees the last ones, so that every identity is in two cameras, as in the data set:
    # MPANet's evaluator stops where removing a camera removes an identity.
    ids = np.concatenate(
        [
            1 + np.arange(IMAGES[cam]) % IDENTITIES[cam] + (96 - IDENTITIES[4]) * (cam == 4)
            for cam in IMAGES
        ]
    )
    codes = rng.standard_normal((ids.max() + 1, _WIDTH), dtype=np.float32)
    erased = _IDENTITY * codes[ids] + rng.standard_normal((len(ids), _WIDTH), dtype=np.float32)
    modality = np.isin(cams, (3, 6)).astype(np.int64)
    features = FeatureSet(erased, None, ids, cams, modality)
    official = evaluate(features, "sysu/all/single@ye", settings=("cross",), rules=("erased",))
    infrared = np.flatnonzero(modality == Modality.INFRARED)
    asked = infrared[np.linspace(0, len(infrared) - 1, queries).astype(np.int64)]
    similarity = scores(features[torch.from_numpy(asked)], features, "erased")
    gallery, *_ = layout(features, [whole(features)])
    grouped = similarity[:, gallery.rows].contiguous()
    return Case(features, asked, -similarity.numpy(), grouped, official.rows[0].mAP)


def ours(case: Case) -> dict[str, float]:
    """MAP of seven settings, with all other metrics, from ready similarities."""
    key, rows = ("erased", None), torch.from_numpy(case.asked)
    return rank_views(
        case.features,
        [whole(case.features)],
        case.asked,
        key,
        lambda gallery: given_scores(key, case.grouped, rows),
    )


def peers(folder: Path, case: Case) -> dict[str, Callable[[], float]]:
    """Public evaluators that are in the folder, each as a task that gives its one setting's mAP."""
    g_ids, g_cams = case.features.ids.numpy(), case.features.cams.numpy()
    labels = q_ids, _, q_cams, _ = g_ids[case.asked], g_ids, g_cams[case.asked], g_cams

    def cython(module: Any) -> float:
        return float(np.mean(module.evaluate_cy(case.distance, *labels, 20, False)[1]))

    def mpanet(module: Any) -> float:
        order = np.argsort(case.distance, axis=1)
        module.get_cmc(order, q_ids, q_cams, g_ids, g_cams)
        return float(module.get_mAP(order, q_ids, q_cams, g_ids, g_cams))

    def ddag(module: Any) -> float:
        return float(module.eval_sysu(case.distance, *labels)[1])

    known = {
        "torchreid cython": ("deep-person-reid/torchreid/metrics/rank_cylib/rank_cy", cython),
        "fast-reid cython": ("fast-reid/fastreid/evaluation/rank_cylib/rank_cy", cython),
        "MPANet": ("MPANet/utils/eval_sysu.py", mpanet),
        "DDAG": ("DDAG/eval_metrics.py", ddag),
    }
    found: dict[str, Callable[[], float]] = {}
    for name, (file, run) in known.items():
        path = find_evaluator(folder / file)
        if path is None:
            print(f"{name} is left out: there is no {file}")
        else:
            found[name] = partial(run, load_evaluator(path))
    if not found:
        files = ", ".join(file for file, _ in known.values())
        raise MixERValueError(
            f"{folder} holds none of the public evaluators; it must hold checkouts with some of "
            f"{files} (the Cython ones built)."
        )
    return found


def measure(folder: Path, queries: int, rounds: int) -> dict[str, Any]:
    """Seconds of all, minima by clock, ratios, and how far the mAPs are apart."""
    case = make_case(queries)
    others = peers(folder, case)
    contestants: dict[str, Callable[[], Any]] = {
        "ours": partial(ours, case),
        "argsort": lambda: np.argsort(case.distance, axis=1),
        **others,
    }
    turns = harness.take_turns(contestants, rounds)
    return harness.environment() | {
        "queries": len(case.asked),
        "gallery": len(case.features),
        "official_single_shot_mAP": case.mean_ap,
        "repetitions": rounds,
        "mAP_difference": {
            name: abs(turns.results[name] - turns.results["ours"][setting])
            for name, setting in _SAME_RULE.items()
            if name in others
        },
        "seconds": turns.seconds,
        **{f"{clock}_minimum": _compare(runs) for clock, runs in turns.seconds.items()},
    }


def _compare(runs: harness.Runs) -> dict[str, dict[str, float]]:
    """Minima, and how often our seven settings fit into seven of each other's."""
    least = harness.summary(runs)["minimum"]
    own, argsort = least.pop("ours"), least.pop("argsort")
    table = {"ours": {"seven_settings": own}}
    for name, one in least.items():
        seven = SETTINGS_COUNTED * one
        table[name] = {
            "one_setting": one,
            "seven_settings": seven,
            "ratio": seven / own,
            "ratio_one_argsort": (seven - (SETTINGS_COUNTED - 1) * argsort) / own,
        }
    return table


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and, if asked, writes JSON."""
    parser = harness.speed_parser(__doc__, 5, "--repetitions", device=False)
    parser.add_argument("--codebases", type=Path, required=True, help="folder of the checkouts")
    parser.add_argument("--queries", type=int, default=512, help="of the 3,803 (default 512)")
    parser.set_defaults(threads=1)
    options = harness.parse(parser, argv)
    if not 1 <= options.queries <= IMAGES[3] + IMAGES[6]:
        parser.error(f"--queries must be 1 to {IMAGES[3] + IMAGES[6]}, got {options.queries}")
    report = measure(options.codebases, options.queries, options.rounds)
    print(
        f"{report['queries']} queries, {report['gallery']} gallery items, {report['threads']} "
        f"thread(s), official single-shot mAP {100 * report['official_single_shot_mAP']:.1f} %; "
        f"minimum of {report['repetitions']}"
    )
    for clock in ("cpu", "wall"):
        table = dict(report[f"{clock}_minimum"])
        print(f"{clock}: ours, seven settings: {table.pop('ours')['seven_settings']:.3f} s")
        for name, values in table.items():
            target = f", target {_TARGETS[name]}" if name in _TARGETS else ""
            print(
                f"  {name:17s} {values['one_setting']:6.3f} s a setting, seven times "
                f"{values['seven_settings']:7.3f} s: {values['ratio']:6.1f} x ours{target} "
                f"({values['ratio_one_argsort']:.1f} x with one argsort for all)"
            )
    print("mAP differs by", report["mAP_difference"])
    harness.write_json(options.out, report)


if __name__ == "__main__":
    sys.exit(run_command("evaluator_peers", main))
