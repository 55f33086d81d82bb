"""The trainings of the benchmark: one cell is one network, trained, and its features kept.

A job is what shares a baseline's weights: the baseline, and the heads trained on it afterwards.
Jobs are independent of each other; cells of a job run in order. A finished cell leaves
``<name>.features.npz`` and ``<name>.json``; a job that is run again trains only what is missing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.attach import mixer_parameters, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop, options_of
from mixer_plugin.baselines.loops import Loop
from mixer_plugin.benchmarks.checkpoint import remove_checkpoint
from mixer_plugin.benchmarks.config import Table3Config
from mixer_plugin.benchmarks.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.recipes import Plan, Recipe
from mixer_plugin.benchmarks.run_card import commit
from mixer_plugin.benchmarks.steps import FrozenBase, WithMixER
from mixer_plugin.benchmarks.training import TrainingSet, fit
from mixer_plugin.benchmarks.weights import TrunkWeights, trunk_weights
from mixer_plugin.checkpoints import base_state_dict
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.images import decode
from mixer_plugin.data.items import ImageList
from mixer_plugin.data.shapes import read_shapes, write_shapes
from mixer_plugin.data.synthetic import SyntheticConfig, write_sysu
from mixer_plugin.data.sysu import read_sysu
from mixer_plugin.data.transforms import normalise
from mixer_plugin.features import FeatureSet, extract_features

CUES, NO_CUE = "cues", "no-cue"


@dataclass(frozen=True)
class Job:
    """Cells that share a baseline's weights.

    Attributes:
        baseline: name of the baseline.
        world: ``cues``, or ``no-cue``: data without modality-only cues.
        seed: of data, initialisation and batches.
        cells: names of its variants, in order.
    """

    baseline: str
    world: str
    seed: int
    cells: tuple[str, ...]

    @property
    def name(self) -> str:
        """A folder name."""
        return f"{self.baseline}-{self.world}-seed{self.seed}"


def plan_jobs(config: Table3Config) -> list[Job]:
    """All jobs of a run; those that every table needs come first."""
    # Heads that train jointly share the baseline's run: its features are their erased ones.
    start = ("baseline",) if config.heads.when == "after" else ()
    first, rest = [], []
    for baseline in config.baselines:
        for seed in config.seeds:
            ens = ("f-ens",) if seed in config.controls.get("f-ens", ()) else ()
            first.append(Job(baseline, CUES, seed, (*start, "f", *ens)))
            first.append(Job(baseline, CUES, seed, ("e2e",)))
            if config.paper:
                first.append(Job(baseline, CUES, seed, ("e2e-paper",)))
            rest += [
                Job(baseline, CUES, seed, (control,))
                for control in ("e2e-ens", "erased-triplet")
                if seed in config.controls.get(control, ())
            ]
            if seed in config.controls.get("no-cue", ()):
                rest.append(Job(baseline, NO_CUE, seed, (*start, "f", "f-ens")))
    return first + rest


def mixer_config(cell: str, config: Table3Config) -> tuple[str, MixERConfig]:
    """Mode and options of a cell's MixER."""
    base = config.mixer
    if cell == "e2e-paper":
        return "e2e", MixERConfig.paper()
    if cell == "erased-triplet":
        return "e2e", dataclasses.replace(base, control="erased-triplet")
    control = "shared-head" if cell.endswith("-ens") else "none"
    mode = "f" if cell.startswith("f") else "e2e"
    frozen = mode == "f" and config.heads.when == "after"
    return mode, dataclasses.replace(base, control=control, frozen_base=frozen)


def data_root(config: Table3Config, job: Job, out: Path) -> Path:
    """Folder of a job's images."""
    if config.root is not None:
        return Path(config.root)
    return out / "data" / f"{job.world}-seed{job.seed}"


def data_settings(config: Table3Config, job: Job) -> SyntheticConfig:
    """Generator settings of a job: the run's, with the job's seed, and cues taken out."""
    assert config.synthetic is not None
    changes: dict[str, Any] = {"seed": job.seed}
    if job.world == NO_CUE:
        changes |= {"visible_cue": 0.0, "infrared_cue": 0.0}
    return dataclasses.replace(config.synthetic, **changes)


def prepare_data(config: Table3Config, job: Job, out: Path) -> None:
    """Writes the job's synthetic images, and shapes if it needs them, unless they are there."""
    if config.synthetic is not None:
        settings = data_settings(config, job)
        write_sysu(data_root(config, job, out), settings)
        if needs_shapes(job.baseline):
            write_shapes(shapes_root(config, job, out), settings)


def image_size(config: Table3Config, baseline: str) -> tuple[int, int]:
    """(height, width) of a network's images: the configuration's, or its public recipe's."""
    if config.image_size is not None:
        return config.image_size
    assert isinstance(config.recipe, PublicRecipe)
    return config.recipe.image_size(baseline)


def plan_of(config: Table3Config, job: Job, cell: str, train: TrainingSet) -> Plan:
    """The recipe of a cell on its training images."""
    recipe = recipe_of(config, cell)
    if isinstance(recipe, PublicRecipe):
        return recipe.plan(job.baseline, train.labels, train.modality)
    return recipe


def recipe_of(config: Table3Config, cell: str) -> Recipe | PublicRecipe:
    """The recipe that the configuration gives a cell."""
    after = config.heads.when == "after" and cell.startswith("f")
    return config.heads.recipe if after and config.heads.recipe else config.recipe


def network_of(config: Table3Config, baseline: str, classes: int) -> tuple[nn.Module, TrunkWeights]:
    """A network with its starting weights: the public recipe's options, then the configuration's.

    Raises:
        MixERError: for options that do not fit, or weights that cannot be had.
    """
    options: dict[str, Any] = {}
    if isinstance(config.recipe, PublicRecipe):
        options = config.recipe.network(baseline)
    options |= config.baselines[baseline]
    if "image_size" in options_of(baseline):
        options["image_size"] = image_size(config, baseline)
    weights = weights_of(config, baseline)
    network = create_baseline(baseline, classes, **{**options, "weights": weights.path})
    return network, weights


def weights_of(config: Table3Config, baseline: str) -> TrunkWeights:
    """The trunk's starting weights of a network: its own option, or the whole run's.

    Raises:
        MixERError: if they cannot be had and the configuration does not go on without.
    """
    options = config.baselines[baseline]
    own = options.get("weights") or config.training.weights
    return trunk_weights(own, options.get("trunk", "resnet50"), config.training.weights_missing)


def needs_shapes(baseline: str) -> bool:
    """Whether a baseline trains on body shapes beside the images."""
    return create_loop(baseline).needs_shapes


def shapes_root(config: Table3Config, job: Job, out: Path) -> Path:
    """Folder of the body shapes of a job's images."""
    if config.shapes is not None:
        return Path(config.shapes)
    root = data_root(config, job, out)
    return root.with_name(f"{root.name}-shapes")


def training_set(images: ImageList, size: tuple[int, int], shapes: Path | None) -> TrainingSet:
    """Decodes a split for training, with the body shapes below a folder if one is given."""
    labels, _ = images.labels()
    return TrainingSet(
        decode(images, size),
        torch.from_numpy(labels),
        torch.from_numpy(images.modality),
        torch.from_numpy(images.cams),
        None if shapes is None else decode(read_shapes(shapes, images), size, shapes=True),
    )


@torch.no_grad()
def features_of(
    model: nn.Module, images: ImageList, pixels: Tensor, plan: Plan, batch: int = 512
) -> FeatureSet:
    """Erased and, where the model is wrapped, related features of decoded images [N, 3, H, W]."""
    cams, ids = torch.from_numpy(images.cams), torch.from_numpy(images.ids)
    batches = (
        (normalise(pixels[rows], plan.augmentation), ids[rows], cams[rows], images.paths[rows])
        for rows in (slice(i, i + batch) for i in range(0, len(pixels), batch))
    )
    if hasattr(model, "mixer"):
        return extract_features(model, batches)
    model.eval()
    adapter, modality = resolve_adapter(model), torch.from_numpy(images.modality)
    starts, device = range(0, len(pixels), batch), next(model.parameters()).device
    erased = [
        adapter.embed(model, found[0].to(device), modality[i : i + batch].to(device)).cpu()
        for i, found in zip(starts, batches, strict=True)
    ]
    return FeatureSet(torch.cat(erased), None, ids, cams, modality, images.paths)


def run_job(
    config: Table3Config,
    job: Job,
    out: Path,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> None:
    """Trains the missing cells of a job and writes their features, each aside and renamed.

    Args:
        config: the run.
        job: which cells.
        out: result folder; the job's files go to ``out/cells/<job>/``.
        report: receives progress events: job, cell, step, steps, loss.

    Raises:
        MixERError: for images that are missing or cannot be read.
        OSError: if the folder cannot be written.
    """
    folder = out / "cells" / job.name
    folder.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in job.cells if not (folder / f"{cell}.json").exists()]
    if not missing:
        return
    report({"event": "data", "job": job.name})
    prepare_data(config, job, out)
    root = data_root(config, job, out)
    shapes = shapes_root(config, job, out) if needs_shapes(job.baseline) else None
    split = read_sysu(root, "trainval" if config.root else "train")
    size = image_size(config, job.baseline)
    train = training_set(split, size, shapes)
    test = read_sysu(root, "test")
    pixels = decode(test, size)
    for cell in missing:
        started = time.perf_counter()
        trained = _train_cell(config, job, cell, folder, train, report)
        plan = trained.plan
        features = features_of(trained.model, test, pixels, plan)
        features.save(folder / f"{cell}.features.npz")
        summary = {
            "job": job.name,
            "cell": cell,
            "commit": commit(),
            "seconds": round(time.perf_counter() - started, 1),
            "steps": plan.iterations,
            "images_seen": plan.iterations * plan.p * plan.k * 2,
            "weights": trained.weights,
            "warnings": trained.warnings,
            "mixer": None if cell == "baseline" else mixer_config(cell, config)[1].to_dict(),
        }
        write_json(folder / f"{cell}.json", summary)
        remove_checkpoint(folder / f"{cell}.resume.pt")
        report({"event": "done", **{k: v for k, v in summary.items() if k != "mixer"}})


@dataclass(frozen=True)
class _Trained:
    model: nn.Module
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
    after = config.heads.when == "after" and cell.startswith("f")
    plan = plan_of(config, job, cell, train)
    seed = job.seed
    mode, mixer = (None, None) if cell == "baseline" else mixer_config(cell, config)
    loop: Loop = create_loop(job.baseline)
    if after:
        state = torch.load(folder / "baseline.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(state)
        seed = job.seed + 10_000
    if mode is not None:
        wrap_with_mixer(model, mode, config=mixer, seed=job.seed)
        loop = FrozenBase(loop) if after else WithMixER(loop)
    parameters = [p for p in model.parameters() if p.requires_grad]
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
    if cell == "baseline":
        save_aside(folder / "baseline.pt", base_state_dict(model))
    return _Trained(model, plan, weights.note, warned)


def save_aside(path: Path, state: Any) -> None:
    """``torch.save`` to a file beside, then renamed."""
    aside = path.with_suffix(path.suffix + ".partial")
    torch.save(state, aside)
    os.replace(aside, path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON aside and renames."""
    aside = path.with_suffix(path.suffix + ".partial")
    aside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, path)
