"""Evaluation and pictures of the finished cells of a run."""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from mixer_plugin.benchmarks.experiment.cells import Cell, Job
from mixer_plugin.benchmarks.experiment.comparisons import Measured, titles_of
from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.experiment.pictures import choose_queries, gains_plot, three_queries
from mixer_plugin.benchmarks.experiment.sources import CUES, permutation_of
from mixer_plugin.benchmarks.experiment.summary import systems_of
from mixer_plugin.benchmarks.experiment.workers import worker_pool
from mixer_plugin.distributed.processes import count_processes
from mixer_plugin.evaluation import Protocol, Results, evaluate, get_protocol
from mixer_plugin.features import FeatureSet

CALIBRATIONS = (None, "znorm", "center")


def rows_of(job: Job) -> dict[str, Cell]:
    """Row → the cell whose features it shows, erased ones alone where it has another name."""
    rows: dict[str, Cell] = {}
    for cell in job.cells:
        rows |= {"baseline": cell, cell.name: cell} if cell.holds_baseline else {cell.name: cell}
    return rows


def features_of_row(job: Job, row: str, out: Path) -> FeatureSet:
    """The stored features of a row."""
    cell = rows_of(job)[row]
    features = FeatureSet.load(job.folder(out) / f"{cell.name}.features.npz")
    return features if row == cell.name else dataclasses.replace(features, related=None)


def protocol_of(job: Job, out: Path) -> Protocol:
    """The protocol that a job's features are evaluated by."""
    name = job.data.protocol_of(job.seed)
    root = job.data.test_root(out, job.world, job.seed)
    return get_protocol(name, permutation=permutation_of(root, name))


def measure(config: Table3Config, jobs: list[Job], out: Path) -> dict[str, Measured]:
    """Evaluates every row of finished jobs: baseline → (world, row, seed) → results."""
    wanted = [(job, row) for job in jobs for row in rows_of(job)]
    of_row = partial(_measure_row, out=out, query=config.query, trials=config.trials)
    if count_processes() > 1:  # which divide each evaluation
        found = [of_row(*one) for one in wanted]
    else:
        with worker_pool(config.workers) as pool:
            found = list(pool.map(of_row, *zip(*wanted, strict=True)))
    measured: dict[str, dict[tuple[str, str, int], Results]] = {}
    for (job, row), results in zip(wanted, found, strict=True):
        measured.setdefault(job.network.name, {})[job.world, row, job.seed] = results
    return dict(measured)


def _measure_row(job: Job, row: str, out: Path, query: str | None, trials: int | None) -> Results:
    features = features_of_row(job, row, out)
    heads = features.related is not None
    rules = ("erased", "mixer", "mixer-shuffled") if heads else ("erased",)
    calibrated = [
        (f"{rule}-calibrated", None) for rule in ("erased", *(["mixer", "fused"] if heads else []))
    ]
    systems = [*product(rules, CALIBRATIONS), *([("fused", None)] if heads else []), *calibrated]
    results = evaluate(
        features,
        protocol_of(job, out),
        systems=systems,
        query=query,
        trials=trials,
    )
    # The tables list the rows of calibrated rules last.
    rows = sorted(results.rows, key=lambda row: (row.rule, row.calibration) in calibrated)
    return dataclasses.replace(results, rows=rows)


def draw(config: Table3Config, jobs: list[Job], measured: dict[str, Measured], out: Path) -> None:
    """Writes the two pictures of each baseline; lists are of the run's first seed and draw."""
    for baseline, found in measured.items():
        gains_plot(found, systems_of(config), baseline, out / f"gains-{baseline}.svg")
        # The first job of a baseline holds it and its (f) heads, on data with all cues.
        job = next(job for job in jobs if job.network.name == baseline)
        plain, heads = (features_of_row(job, row, out) for row in ("baseline", "f"))
        protocol = protocol_of(job, out)
        query = "visible" if (config.query or protocol.query) == "visible" else "infrared"
        titles = titles_of(found)
        setting = "mix" if "mix" in titles else next(iter(titles))
        aps = (found[CUES, cell, job.seed].per_query_ap for cell in ("baseline", "f"))
        (rows, before), (_, after) = (
            of_query[setting, rule, query, None]
            for of_query, rule in zip(aps, ("erased", config.rule), strict=True)
        )
        chosen = choose_queries(rows, before, after)
        if not chosen:
            continue
        title = (
            f"{baseline}, {titles[setting]}, seed {job.seed}: with (f)+MixER the AP of "
            f"{np.sum(after > before)} {query} queries rose, of {np.sum(after < before)} it fell"
        )
        three_queries(
            [("baseline", plain, "erased"), ("(f)+MixER", heads, config.rule)],
            chosen,
            np.sort(np.asarray(protocol.draws(plain)[0])),
            title,
            out / f"queries-{baseline}.svg",
        )
