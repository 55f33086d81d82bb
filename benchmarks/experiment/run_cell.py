"""The trainings of the benchmark: one cell is one network, trained, and its features kept.

A job is what shares a baseline's weights: the baseline, and the heads trained on it afterwards.
Jobs are independent of each other; cells of a job run in order. A finished cell leaves its network
``<name>.pt``, ``<name>.features.npz`` and ``<name>.json``; a job that is run again trains only what
is missing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.adapters.stages import stage_channels
from mixer_plugin.attach import mixer_parameters, unwrap_mixer, wrap_with_mixer
from mixer_plugin.baselines import create_loop
from mixer_plugin.baselines.loops import Loop
from mixer_plugin.benchmarks.experiment.cells import Cell, Job
from mixer_plugin.benchmarks.experiment.images import (
    decoded_batches,
    features_of,
    network_cameras,
    test_set,
    training_set,
)
from mixer_plugin.benchmarks.experiment.trained_network import (
    Built,
    TrainedOn,
    read_trained,
    save_trained,
)
from mixer_plugin.benchmarks.training.checkpoint import remove_checkpoint
from mixer_plugin.benchmarks.training.fit import TrainingSet, fit
from mixer_plugin.benchmarks.training.public_recipe import Plan
from mixer_plugin.benchmarks.training.steps import FrozenBase, WithMixER
from mixer_plugin.checkpoints import load_base_state_dict
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.distributed.processes import count_processes, main_process_first, on_main_process
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.settings import SIDES
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.forward.terms import adds
from mixer_plugin.io.atomic_write import write_json
from mixer_plugin.run_card import commit

_OF_HEADS = 10_000  # added to the seed of heads that train on a finished network


def run_job(
    job: Job, out: Path, report: Callable[[dict[str, Any]], None] = lambda event: None
) -> None:
    """Trains the missing cells of a job and writes their features, each whole or not at all.

    The processes of a group call this together; the first one writes.

    Args:
        job: which cells.
        out: result folder; the job's files go to ``out/cells/<job>/``.
        report: receives progress events: what happened, to which job and cell.

    Raises:
        MixERError: for images that are missing or cannot be read.
        OSError: if the folder cannot be written.
    """
    folder = job.folder(out)

    def begin() -> list[Cell]:
        folder.mkdir(parents=True, exist_ok=True)
        return job.missing(out)

    missing = on_main_process("table3", begin)
    if not missing:
        return
    report({"event": "data", "job": job.name})
    train, known, (test, pixels) = main_process_first("table3", partial(_images, job, out))
    for cell in missing:
        started = time.perf_counter()
        own = train if cell.only is None else one_modality(train, SIDES[cell.only])
        model, built, facts = train_cell(job, cell, folder, own, report)
        built = dataclasses.replace(built, trained_on=known)
        features = features_of(model, decoded_batches(test, pixels, built))
        summary = {
            "job": job.name,
            "cell": cell.name,
            "commit": commit(),
            "processes": count_processes(),
            "seconds": round(time.perf_counter() - started, 1),
            **facts,
            "mixer": None if cell.mixer is None else cell.mixer.to_dict(),
        }
        on_main_process("table3", partial(_keep, folder, model, built, features, summary))
        report({"event": "done", **{k: v for k, v in summary.items() if k != "mixer"}})


def lightest_heads(mixer: MixERConfig | None, model: nn.Module) -> MixERConfig | None:
    """The heads to train a base beside, where they are made anew afterwards.

    Where heads move nothing in the base, it ends in the same bits beside the lightest ones; and
    without any, where eq. 15 on the erased feature is all that MixER's losses move it by.

    Args:
        mixer: of the heads that are made afterwards.
        model: the base, not wrapped.
    """
    if mixer is None or (
        mixer.fusion_gradient,
        mixer.related_input,
        mixer.orthogonal_side,
    ) != ("apart", "detach", "related"):
        return mixer
    adapter = resolve_adapter(model)
    added = any(adds(mixer, adapter, term) for term in ("identity", "center_cluster"))
    if mixer.lambda_confusion == 0 and not added:
        return dataclasses.replace(mixer, control="erased-triplet")
    light = dataclasses.replace(
        mixer, related_stages=1, related_width=1.0, related_fusion="concatenation"
    )
    try:
        stage_channels(adapter, model)
    except MixERValueError:  # a stage of tokens
        return light
    return dataclasses.replace(light, related_blocks="low-rank", related_rank=1)


def one_modality(train: TrainingSet, side: Modality) -> TrainingSet:
    """The images of one modality, each of them twice: as it is, and as one of the other modality.

    Every network here has batches of both modalities.
    """
    rows = (train.modality == side).nonzero().flatten()
    modality = torch.arange(2).repeat_interleave(len(rows))
    return TrainingSet(
        train.images[rows].repeat(2, 1, 1, 1),
        train.labels[rows].repeat(2),
        modality,
        network_cameras(train.cams[rows].repeat(2), modality),
        None if train.shapes is None else train.shapes[rows].repeat(2, 1, 1, 1),
    )


def _images(job: Job, out: Path) -> tuple[TrainingSet, TrainedOn, tuple[ImageList, Tensor]]:
    """What a job trains on, whom that shows, and what it tests on, which shows nobody of them."""
    job.data.write(out, job.world, job.seed)
    images = job.data.read_train(out, job.world, job.seed)
    layout, trial = job.data.train.find_layout(), job.data.trial_of(job.seed)
    known, test = TrainedOn.of(images, layout, trial), test_set(job, out)
    if job.data.test is None:
        known.check_unknown(test[0], layout, known.trial)
    return training_set(job, out, images), known, test


def _keep(
    folder: Path, model: nn.Module, built: Built, features: FeatureSet, summary: dict[str, Any]
) -> None:
    """Writes a cell's files; its summary comes last and marks it as finished."""
    name = summary["cell"]
    features.save(folder / f"{name}.features.npz")
    save_trained(folder / f"{name}.pt", model, built)
    write_json(folder / f"{name}.json", summary)
    for part in (name, f"{name}.heads"):
        remove_checkpoint(folder / f"{part}.resume.pt")


def train_cell(
    job: Job,
    cell: Cell,
    folder: Path,
    train: TrainingSet,
    report: Callable[[dict[str, Any]], None],
    every: int = 25,
) -> tuple[nn.Module, Built, dict[str, Any]]:
    """Trains a cell; returns its network, how to build that, and its summary.

    Args:
        job: the cell's job.
        cell: which one; what it starts from must be in the folder.
        folder: for checkpoints and logs.
        train: images.
        report: receives progress events.
        every: steps between two events of progress.
    """
    network = job.network
    warned: list[str] = []
    where = {"job": job.name, "cell": cell.name}

    def on_warning(advice: str) -> None:
        warned.append(advice)
        report({"event": "warning", **where, "advice": advice})

    torch.manual_seed(job.seed)
    model, weights = network.build(train.classes)
    plans = [recipe.plan(network.baseline, train.labels, train.modality) for recipe in cell.recipes]
    facts = {
        "steps": sum(plan.iterations for plan in plans),
        "images_seen": sum(plan.iterations * plan.p * plan.k * 2 for plan in plans),
        "weights": weights.note,
        "warnings": warned,
    }
    report({"event": "start", **where, "steps": facts["steps"]})

    def fit_part(
        part: str, plan: Plan, mode: str | None, mixer: MixERConfig | None, done: int = 0
    ) -> None:
        """Trains the network, or the heads on a frozen one; ``done``: steps before this part."""
        heads = mixer is not None and mixer.frozen_base
        loop: Loop = create_loop(network.baseline)
        if mode is not None:
            wrap_with_mixer(model, mode, config=mixer, seed=job.seed)
            loop = FrozenBase(loop) if heads else WithMixER(loop)

        def on_step(step: int, loss: Tensor) -> None:
            if (step + 1) % every == 0:
                step += done
                of_step = {"step": step + 1, "every": every, "loss": float(loss)}
                report({"event": "step", **where, **of_step})

        fit(
            model,
            mixer_parameters(model)
            if heads
            else [p for p in model.parameters() if p.requires_grad],
            loop,
            train,
            plan,
            seed=job.seed + (_OF_HEADS if heads else 0),
            options=job.training,
            checkpoint=folder / f"{part}.resume.pt",
            log=(folder, part),
            run={
                **where,
                "network": network.given,
                "weights": weights.note,
                "mode": mode,
                "mixer": None if mixer is None else mixer.to_dict(),
                "images": len(train.labels),
                "image_size": train.images.shape[2:],
            },
            on_step=on_step,
            on_warning=on_warning,
        )

    mode, mixer = cell.mode, cell.mixer
    if cell.starts_from is not None:
        start = read_trained(folder / f"{cell.starts_from}.pt")[0]
        load_base_state_dict(model, start)
    beside = mixer if cell.finish is None else lightest_heads(mixer, model)
    fit_part(cell.name, plans[0], mode, beside)
    if cell.finish is not None and mixer is not None:
        mode, mixer = "f", dataclasses.replace(mixer, frozen_base=True)
        unwrap_mixer(model)
        fit_part(f"{cell.name}.heads", plans[1], mode, mixer, done=plans[0].iterations)
    built = Built(
        baseline=network.baseline,
        options=network.options,
        classes=train.classes,
        image_size=network.image_size,
        mean=plans[0].augmentation.mean,
        std=plans[0].augmentation.std,
        mode=mode,
        mixer=None if mixer is None else mixer.to_dict(),
    )
    return model, built, facts
