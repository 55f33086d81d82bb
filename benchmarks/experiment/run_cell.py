"""The trainings of the benchmark: one cell is one network, trained, and its features kept.

A job is what shares a baseline's weights: the baseline, and the heads trained on it afterwards.
Jobs are independent of each other; cells of a job run in order. A finished cell leaves its network
``<name>.pt``, ``<name>.features.npz`` and ``<name>.json``; a job that is run again trains only what
is missing.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.attach import mixer_parameters, unwrap_mixer, wrap_with_mixer
from mixer_plugin.baselines import create_loop
from mixer_plugin.baselines.loops import Loop
from mixer_plugin.benchmarks.experiment.cells import Job, finishes, mixer_config, trained_after
from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.experiment.extract import decoded_batches, features_of
from mixer_plugin.benchmarks.experiment.images import test_set, training_set
from mixer_plugin.benchmarks.experiment.networks import (
    image_size,
    network_of,
    network_options,
    plans_of,
)
from mixer_plugin.benchmarks.experiment.trained_network import Built, read_trained, save_trained
from mixer_plugin.benchmarks.training.checkpoint import remove_checkpoint
from mixer_plugin.benchmarks.training.fit import TrainingSet, fit
from mixer_plugin.benchmarks.training.ranks import main_process_first, on_main_process
from mixer_plugin.benchmarks.training.recipe import Plan
from mixer_plugin.benchmarks.training.steps import FrozenBase, WithMixER
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.distributed.gather import count_processes
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.run_card import commit

_OF_HEADS = 10_000  # added to the seed of heads that train on a finished network


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
    missing = on_main_process(lambda: _missing(job, folder))
    if not missing:
        return
    report({"event": "data", "job": job.name})
    train, (test, pixels) = main_process_first(lambda: _images(config, job, out))
    for cell in missing:
        started = time.perf_counter()
        trained = _train_cell(config, job, cell, folder, train, report)
        plans = trained.plans
        features = features_of(trained.model, decoded_batches(test, pixels, plans[0].augmentation))
        summary = {
            "job": job.name,
            "cell": cell,
            "commit": commit(),
            "processes": count_processes(),
            "seconds": round(time.perf_counter() - started, 1),
            "steps": sum(plan.iterations for plan in plans),
            "images_seen": sum(plan.iterations * plan.p * plan.k * 2 for plan in plans),
            "weights": trained.weights,
            "warnings": trained.warnings,
            "mixer": None if cell == "baseline" else mixer_config(cell, config)[1].to_dict(),
        }
        on_main_process(partial(_keep, folder, trained, features, summary))
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
    for part in (cell, f"{cell}.heads"):
        remove_checkpoint(folder / f"{part}.resume.pt")


@dataclass(frozen=True)
class _Trained:
    model: nn.Module
    built: Built
    plans: list[Plan]
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

    def on_warning(advice: str) -> None:
        warned.append(advice)
        report({"event": "warning", **where, "advice": advice})

    torch.manual_seed(job.seed)
    model, weights = network_of(config, job.baseline, train.classes)
    plans = plans_of(config, job, cell, train)
    report({"event": "start", **where, "steps": sum(plan.iterations for plan in plans)})

    def fit_part(
        part: str, plan: Plan, mode: str | None, mixer: MixERConfig | None, seed: int, done: int = 0
    ) -> None:
        """Trains the network, or the heads on a frozen one; ``done``: steps before this part."""
        heads = mixer is not None and mixer.frozen_base
        loop: Loop = create_loop(job.baseline)
        if mixer is not None:
            loop = FrozenBase(loop) if heads else WithMixER(loop)

        def on_step(step: int, loss: Tensor) -> None:
            if (step + 1) % 25 == 0:
                step += done
                report({"event": "step", **where, "step": step + 1, "loss": float(loss)})

        fit(
            model,
            [p for p in model.parameters() if p.requires_grad]
            if not heads
            else mixer_parameters(model),
            loop,
            train,
            plan,
            seed=seed,
            options=config.training,
            checkpoint=folder / f"{part}.resume.pt",
            log=(folder, part),
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

    mode, mixer = (None, None) if cell == "baseline" else mixer_config(cell, config)
    after = trained_after(config, cell)
    if after:
        model.load_state_dict(dict(read_trained(folder / "baseline.pt")[0]))
    if mode is not None:
        wrap_with_mixer(model, mode, config=mixer, seed=job.seed)
    fit_part(cell, plans[0], mode, mixer, job.seed + (_OF_HEADS if after else 0))
    if finishes(config, cell):
        assert mixer is not None
        mode, mixer = "f", dataclasses.replace(mixer, frozen_base=True)
        wrap_with_mixer(unwrap_mixer(model), mode, config=mixer, seed=job.seed)
        steps = plans[0].iterations
        fit_part(f"{cell}.heads", plans[1], mode, mixer, job.seed + _OF_HEADS, steps)
    built = Built(
        baseline=job.baseline,
        options=network_options(config, job.baseline),
        classes=train.classes,
        image_size=image_size(config, job.baseline),
        mean=plans[0].augmentation.mean,
        std=plans[0].augmentation.std,
        mode=mode,
        mixer=None if mixer is None else mixer.to_dict(),
    )
    return _Trained(model, built, plans, weights.note, warned)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON aside and renames."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())
