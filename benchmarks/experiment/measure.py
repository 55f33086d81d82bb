"""What the finished cells of a run are worth: their evaluation and their pictures."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path

import numpy as np

from mixer_plugin.benchmarks.experiment.cells import Job, plan_jobs
from mixer_plugin.benchmarks.experiment.comparisons import Measured
from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.experiment.pictures import choose_query, forest_plot, top_ten
from mixer_plugin.benchmarks.experiment.sources import CUES, permutation_of
from mixer_plugin.benchmarks.experiment.workers import worker_pool
from mixer_plugin.distributed.gather import count_processes
from mixer_plugin.evaluation import Protocol, Results, evaluate, get_protocol
from mixer_plugin.features import FeatureSet

CALIBRATIONS = (None, "znorm", "center")


def features_of_cell(config: Table3Config, out: Path, job: Job, cell: str) -> FeatureSet:
    """Stored features; a baseline whose heads trained jointly is the erased half of theirs."""
    if cell == "baseline" and config.heads.when == "joint":
        joint = FeatureSet.load(out / "cells" / job.name / "f.features.npz")
        return dataclasses.replace(joint, related=None)
    return FeatureSet.load(out / "cells" / job.name / f"{cell}.features.npz")


def protocol_of(config: Table3Config, job: Job, out: Path) -> Protocol:
    """The protocol that a job's features are evaluated by."""
    name = config.data.protocol_of(job.seed)
    root = config.data.test_root(out, job.world, job.seed)
    return get_protocol(name, permutation=permutation_of(root, name))


def measure(config: Table3Config, jobs: list[Job], out: Path) -> dict[str, Measured]:
    """Evaluates every cell: baseline → (world, cell, seed) → results."""
    wanted = []
    for job in jobs:
        joint = config.heads.when == "joint" and "f" in job.cells
        wanted += [(job, cell) for cell in ((*(["baseline"] if joint else []), *job.cells))]
    measured: dict[str, dict[tuple[str, str, int], Results]] = {}
    for (job, cell), results in zip(wanted, _results(config, wanted, out), strict=True):
        measured.setdefault(job.baseline, {})[job.world, cell, job.seed] = results
    return dict(measured)


def _results(config: Table3Config, wanted: list[tuple[Job, str]], out: Path) -> list[Results]:
    if count_processes() > 1:  # which divide each evaluation
        return [_measure_cell(config, job, cell, out) for job, cell in wanted]
    with worker_pool(config.workers) as pool:
        found = [pool.submit(_measure_cell, config, job, cell, out) for job, cell in wanted]
        return [future.result() for future in found]


def _measure_cell(config: Table3Config, job: Job, cell: str, out: Path) -> Results:
    features = features_of_cell(config, out, job, cell)
    rules = ("erased", "mixer", "mixer-shuffled") if features.related is not None else ("erased",)
    calibrated = [(f"{rule}-calibrated", None) for rule in rules if rule != "mixer-shuffled"]
    results = evaluate(
        features,
        protocol_of(config, job, out),
        systems=[*product(rules, CALIBRATIONS), *calibrated],
        query=config.query,
        trials=config.trials,
    )
    # The tables list the rows of calibrated rules last.
    rows = sorted(results.rows, key=lambda row: (row.rule, row.calibration) in calibrated)
    return dataclasses.replace(results, rows=rows)


def draw(config: Table3Config, measured: dict[str, Measured], out: Path) -> None:
    """Writes the forest plot and the top ten of each baseline."""
    for baseline, of_baseline in measured.items():
        forest_plot(of_baseline, baseline, out / f"forest-{baseline}.png")
        seed = config.seeds[0]
        job = next(
            j for j in plan_jobs(config) if (j.baseline, j.world, j.seed) == (baseline, CUES, seed)
        )
        plain = features_of_cell(config, out, job, "baseline")
        heads = features_of_cell(config, out, job, "f")
        protocol = protocol_of(config, job, out)
        asking = protocol.queries(plain, int((config.query or protocol.query) == "infrared"))
        gallery = np.sort(np.asarray(protocol.draws(plain)[0]))
        query = choose_query(plain, heads, asking, gallery)
        systems = [(baseline, plain, "erased"), ("(f)+MixER", heads, "mixer")]
        top_ten(systems, query, gallery, out / f"top-ten-{baseline}.png")
