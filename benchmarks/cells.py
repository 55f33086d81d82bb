"""The trainings of the benchmark: one cell is one network, trained, and its features kept.

A job is what shares a baseline's weights: the baseline, and the heads trained on it afterwards.
Jobs are independent of each other; cells of a job run in order. A finished cell leaves its network
``<name>.pt``, ``<name>.features.npz`` and ``<name>.json``; a job that is run again trains only what
is missing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.attach import mixer_parameters, wrap_with_mixer
from mixer_plugin.baselines import create_loop
from mixer_plugin.baselines.loops import Loop
from mixer_plugin.benchmarks.checkpoint import remove_checkpoint
from mixer_plugin.benchmarks.config import Table3Config
from mixer_plugin.benchmarks.extracting import decoded_batches, features_of
from mixer_plugin.benchmarks.job_images import test_set, training_set
from mixer_plugin.benchmarks.jobs import Job, mixer_config, trained_after
from mixer_plugin.benchmarks.networks import image_size, network_of, network_options, plan_of
from mixer_plugin.benchmarks.processes import after_first, at_first
from mixer_plugin.benchmarks.recipes import Plan
from mixer_plugin.benchmarks.run_card import commit
from mixer_plugin.benchmarks.steps import FrozenBase, WithMixER
from mixer_plugin.benchmarks.trained import Built, read_trained, save_trained
from mixer_plugin.benchmarks.training import TrainingSet, fit
from mixer_plugin.data.items import ImageList
from mixer_plugin.features import FeatureSet
from mixer_plugin.gathering import count_processes


def run_job(
    config: Table3Config,
    job: Job,
    out: Path,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> None:
    """Trains the missing cells of a job and writes their features, each aside and renamed.

    The processes of a group call this together; the first one writes.

    Args:
        config: the run.
        job: which cells.
        out: result folder; the job's files go to ``out/cells/<job>/``.
        report: receives progress events: what happened, to which job and cell.

    Raises:
        MixERError: for images that are missing or cannot be read.
        OSError: if the folder cannot be written.
    """
    folder = out / "cells" / job.name
    missing = at_first(lambda: _missing(job, folder))
    if not missing:
        return
    report({"event": "data", "job": job.name})
    train, (test, pixels) = after_first(lambda: _images(config, job, out))
    for cell in missing:
        started = time.perf_counter()
        trained = _train_cell(config, job, cell, folder, train, report)
        plan = trained.plan
        features = features_of(trained.model, decoded_batches(test, pixels, plan.augmentation))
        summary = {
            "job": job.name,
            "cell": cell,
            "commit": commit(),
            "processes": count_processes(),
            "seconds": round(time.perf_counter() - started, 1),
            "steps": plan.iterations,
            "images_seen": plan.iterations * plan.p * plan.k * 2,
            "weights": trained.weights,
            "warnings": trained.warnings,
            "mixer": None if cell == "baseline" else mixer_config(cell, config)[1].to_dict(),
        }
        at_first(partial(_keep, folder, trained, features, summary))
        report({"event": "done", **{k: v for k, v in summary.items() if k != "mixer"}})


def _missing(job: Job, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return [cell for cell in job.cells if not (folder / f"{cell}.json").exists()]


def _images(
    config: Table3Config, job: Job, out: Path
) -> tuple[TrainingSet, tuple[ImageList, Tensor]]:
    config.data.write(out, job.world, job.seed)
    return training_set(config, job, out), test_set(config, job, out)


def _keep(folder: Path, trained: _Trained, features: FeatureSet, summary: dict[str, Any]) -> None:
    """Writes what a cell leaves; its summary last, which says that it is finished."""
    cell = summary["cell"]
    features.save(folder / f"{cell}.features.npz")
    save_trained(folder / f"{cell}.pt", trained.model, trained.built)
    write_json(folder / f"{cell}.json", summary)
    remove_checkpoint(folder / f"{cell}.resume.pt")


@dataclass(frozen=True)
class _Trained:
    model: nn.Module
    built: Built
    plan: Plan
    weights: str
    warnings: list[str]


def _train_cell(
    config: Table3Config,
    job: Job,
    cell: str,
    folder: Path,
    train: TrainingSet,
    report: Callable[[dict[str, Any]], None],
) -> _Trained:
    warned: list[str] = []
    where = {"job": job.name, "cell": cell}

    def on_step(step: int, loss: Tensor) -> None:
        if (step + 1) % 25 == 0:
            report({"event": "step", **where, "step": step + 1, "loss": float(loss)})

    def on_warning(advice: str) -> None:
        warned.append(advice)
        report({"event": "warning", **where, "advice": advice})

    torch.manual_seed(job.seed)
    model, weights = network_of(config, job.baseline, train.classes)
    after = trained_after(config, cell)
    plan = plan_of(config, job, cell, train)
    seed = job.seed
    mode, mixer = (None, None) if cell == "baseline" else mixer_config(cell, config)
    loop: Loop = create_loop(job.baseline)
    if after:
        model.load_state_dict(dict(read_trained(folder / "baseline.pt")[0]))
        seed = job.seed + 10_000
    if mode is not None:
        wrap_with_mixer(model, mode, config=mixer, seed=job.seed)
        loop = FrozenBase(loop) if after else WithMixER(loop)
    parameters = [p for p in model.parameters() if p.requires_grad]
    report({"event": "start", **where, "steps": plan.iterations})
    fit(
        model,
        mixer_parameters(model) if after else parameters,
        loop,
        train,
        plan,
        seed=seed,
        options=config.training,
        checkpoint=folder / f"{cell}.resume.pt",
        log=(folder, cell),
        run={
            **where,
            "network": config.baselines[job.baseline],
            "weights": weights.note,
            "mode": mode,
            "mixer": None if mixer is None else mixer.to_dict(),
            "images": len(train.labels),
            "image_size": train.images.shape[2:],
        },
        on_step=on_step,
        on_warning=on_warning,
    )
    built = Built(
        baseline=job.baseline,
        options=network_options(config, job.baseline),
        classes=train.classes,
        image_size=image_size(config, job.baseline),
        mean=plan.augmentation.mean,
        std=plan.augmentation.std,
        mode=mode,
        mixer=None if mixer is None else mixer.to_dict(),
    )
    return _Trained(model, built, plan, weights.note, warned)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON aside and renames."""
    aside = path.with_suffix(path.suffix + ".partial")
    aside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)
