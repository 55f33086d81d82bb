"""How much quicker are seven settings at once than the public evaluators, one after another?

    python -m mixer_plugin.benchmarks.speed.evaluator_peers --codebases DIR [--queries 512] \
        [--out JSON]

DIR holds checkouts under their repositories' names, and what is missing is left out: ``MPANet``,
``DDAG``, ``deep-person-reid`` (torchreid) and ``fast-reid``, the last two with their Cython
evaluators built: in ``torchreid/metrics/rank_cylib`` and ``fastreid/evaluation/rank_cylib``, run
``python setup.py build_ext --inplace`` (needs Cython).

Everybody gets the same float32 similarities of SYSU-MM01-shaped random features (10,578 gallery
items, six cameras, 96 identities, about 112 images of each query's identity), so that the product
is in nobody's time. One thread. All run in turn, so that other load on the machine meets all alike;
processor time is what it disturbs least. A public evaluator does one setting, by its own rule, and
is counted seven times; since seven calls could share one argsort, the time with six argsorts taken
off is given as well. mAP differs by the order of float32 ties, which their sorts leave open.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
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

from mixer_plugin.benchmarks.speed.eval_speed import IDENTITIES, IMAGES, seven_views
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import evaluate
from mixer_plugin.evaluation.ranking.gallery_layout import Gallery, arrange
from mixer_plugin.evaluation.ranking.metrics import cmc, nan_mean
from mixer_plugin.evaluation.ranking.rank import rank
from mixer_plugin.evaluation.ranking.scoring import Queries, given_scores
from mixer_plugin.evaluation.settings import Groups, find_groups
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching import scores

SETTINGS_COUNTED = 7
# With identity vectors of this length under unit noise in 512 dimensions, the official single-shot
# mAP is near 60 %, as of a good network on SYSU-MM01; the report says what it is.
_WIDTH, _IDENTITY = 512, 0.365
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
    before = {name: sys.modules.get(name) for name in stand_ins}
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
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before
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

    def labels(self) -> tuple[NDArray[np.int64], ...]:
        """Identities of queries and gallery, cameras of queries and gallery."""
        ids, cams = self.features.ids.numpy(), self.features.cams.numpy()
        return ids[self.asked], ids, cams[self.asked], cams


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
    gallery, _ = _arranged(features)
    grouped = similarity[:, gallery.rows].contiguous()
    return Case(features, asked, -similarity.numpy(), grouped, official.rows[0].mAP)


def _arranged(features: FeatureSet) -> tuple[Gallery, Groups]:
    modality, cams, ids = (
        value.numpy() for value in (features.modality, features.cams, features.ids)
    )
    groups = find_groups(modality, cams)
    identity = np.unique(ids, return_inverse=True)[1].reshape(-1)
    return arrange([np.arange(len(ids))], groups, identity, torch.device("cpu")), groups


def ours(case: Case) -> dict[str, float]:
    """MAP of seven settings, with all other metrics, from ready similarities."""
    gallery, groups = _arranged(case.features)
    views = seven_views(groups)
    rows = torch.from_numpy(case.asked)
    identity = torch.unique(case.features.ids, return_inverse=True)[1]
    group = torch.from_numpy(groups.of_row)
    queries = Queries(rows, group[rows], identity[rows], int(Modality.INFRARED))
    key = ("erased", None)
    score = given_scores(key, case.grouped, rows)
    found = rank(queries, gallery, score, [key], views, dedup=True)[key]
    cmc(found.first)
    nan_mean(found.inp, axis=-1)
    means = nan_mean(found.ap, axis=-1)[0]
    return {each.name: float(value) for each, value in zip(views, means, strict=True)}


def peers(folder: Path, case: Case) -> dict[str, Callable[[], float]]:
    """Public evaluators that are in the folder, each as a task that gives its one setting's mAP."""
    labels = case.labels()
    q_ids, g_ids, q_cams, g_cams = labels

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


def measure(folder: Path, queries: int, repetitions: int) -> dict[str, Any]:
    """Times all in turn.

    Args:
        folder: Checkouts.
        queries: Number of queries.
        repetitions: Timed runs of each, after one of each that is not timed.

    Returns:
        Seconds per run, minima by clock, ratios, and how far the mAPs are apart.
    """
    case = make_case(queries)
    others = peers(folder, case)
    tasks: dict[str, Callable[[], Any]] = {
        "ours": partial(ours, case),
        "argsort": lambda: np.argsort(case.distance, axis=1),
        **others,
    }
    seconds: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in tasks} for clock in ("wall", "cpu")
    }
    answers = {}
    for turn in range(repetitions + 1):
        for name, task in tasks.items():
            wall, cpu = time.perf_counter(), time.process_time()
            answers[name] = task()
            if turn:
                seconds["wall"][name].append(time.perf_counter() - wall)
                seconds["cpu"][name].append(time.process_time() - cpu)
    same_rule = {"torchreid cython": "mix-cam-id", "fast-reid cython": "mix-cam-id"}
    same_rule |= {"MPANet": "mix-cam"}
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "queries": len(case.asked),
        "gallery": len(case.features),
        "official_single_shot_mAP": case.mean_ap,
        "repetitions": repetitions,
        "mAP_difference": {
            name: abs(answers[name] - answers["ours"][setting])
            for name, setting in same_rule.items()
            if name in others
        },
        "seconds": seconds,
        **{f"{clock}_minimum": _compare(runs) for clock, runs in seconds.items()},
    }


def _compare(runs: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Minima, and how often our seven settings fit into seven of each other's."""
    least = {name: min(values) for name, values in runs.items()}
    table = {"ours": {"seven_settings": least.pop("ours")}}
    argsort = least.pop("argsort")
    for name, one in least.items():
        seven = SETTINGS_COUNTED * one
        shared = seven - (SETTINGS_COUNTED - 1) * argsort
        table[name] = {
            "one_setting": one,
            "seven_settings": seven,
            "ratio": seven / table["ours"]["seven_settings"],
            "ratio_one_argsort": shared / table["ours"]["seven_settings"],
        }
    return table


def main(argv: list[str] | None = None) -> None:
    """Measures, prints and, if asked, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--codebases", type=Path, required=True, help="folder of the checkouts")
    parser.add_argument("--queries", type=int, default=512, help="of the 3,803 (default 512)")
    parser.add_argument("--repetitions", type=int, default=5, help="timed runs of each")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.queries <= IMAGES[3] + IMAGES[6]:
        parser.error(f"--queries must be 1 to {IMAGES[3] + IMAGES[6]}, got {arguments.queries}")
    if arguments.repetitions < 1:
        parser.error(f"--repetitions must be at least 1, got {arguments.repetitions}")
    torch.set_num_threads(1)
    report = measure(arguments.codebases, arguments.queries, arguments.repetitions)
    print(
        f"{report['queries']} queries, {report['gallery']} gallery items, 1 thread, official "
        f"single-shot mAP {100 * report['official_single_shot_mAP']:.1f} %; minimum of "
        f"{report['repetitions']}"
    )
    for clock in ("cpu", "wall"):
        table = report[f"{clock}_minimum"]
        print(f"{clock}: ours, seven settings: {table['ours']['seven_settings']:.3f} s")
        for name, values in table.items():
            if name == "ours":
                continue
            target = f", target {_TARGETS[name]}" if name in _TARGETS else ""
            print(
                f"  {name:17s} {values['one_setting']:6.3f} s a setting, seven times "
                f"{values['seven_settings']:7.3f} s: {values['ratio']:6.1f} x ours{target} "
                f"({values['ratio_one_argsort']:.1f} x with one argsort for all)"
            )
    print("mAP differs by", report["mAP_difference"])
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
