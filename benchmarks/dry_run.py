"""What a run of ``table3`` will take: counted, checked, and timed on a handful of steps.

It keeps nothing that it trains and writes nothing: generated images go to a temporary folder.
"""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixer_plugin.baselines import create_loop
from mixer_plugin.benchmarks.experiment.cells import Cell, Job, plan_jobs
from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.experiment.images import features_of
from mixer_plugin.benchmarks.experiment.run_cell import train_cell
from mixer_plugin.benchmarks.experiment.run_folder import check
from mixer_plugin.benchmarks.experiment.workers import missing_cells, worker_pool
from mixer_plugin.benchmarks.speed.harness import peak_memory
from mixer_plugin.benchmarks.training.fit import TrainingSet
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.data.loading.transforms import normalise
from mixer_plugin.evaluation.tables import aligned_table

_WIDTH = 80
_FEW = 2  # identities of a timed batch on a CPU where a whole one takes long
_LONG = 2**21  # pixels of such a batch
_STEPS, _LONG_STEPS = 4, 2  # of a usual and of a long batch; the first one is not timed
_CHECKPOINT = 4  # times the weights: they, Adam's two moments, and the file written aside
_GB = 2**30


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A run's images, those of its first seed standing for all.

    Attributes:
        labels: int64 [N], of the training images.
        modality: int64 [N].
        classes: training identities.
        tested: images that are tested on.
    """

    labels: Tensor
    modality: Tensor
    classes: int
    tested: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a handful of steps showed of a cell.

    Attributes:
        seconds: of a step with the whole batch, by training of the cell.
        image: seconds of one image's evaluation.
        parameters: of the network with its heads.
        columns: of an image's features.
        memory: bytes of a step with the whole batch; None: not on this system.
    """

    seconds: tuple[float, ...]
    image: float
    parameters: int
    columns: int
    memory: float | None


def dry_run(config: Table3Config, out: Path, jobs: list[Job] | None = None) -> str:
    """Checks a run and says what it takes on this machine.

    Args:
        config: the run.
        out: its result folder; finished cells in it are not counted.
        jobs: some of its trainings; None: all of them.

    Returns:
        Lines of at most 80 columns: networks, steps, images, hours, memory and disk.

    Raises:
        MixERError: for what would stop the run before it trains.
    """
    jobs = plan_jobs(config) if jobs is None else jobs
    check(config, jobs, out)
    missing = missing_cells(jobs, out)
    if not missing:
        return f"Every cell in {out} is finished: nothing is left to train."
    images = _count(missing[0][0])
    samples: dict[str, Sample] = {}
    with worker_pool(1) as pool:  # timed as a worker of the run trains
        for job, cell in missing:
            if _name(job, cell) not in samples:
                found = pool.submit(sample, job, cell, images.classes).result()
                samples[_name(job, cell)] = found
    return "\n".join(_lines(config, out, missing, samples, images))


def _name(job: Job, cell: Cell) -> str:
    return f"{job.network.name}, {cell.name}"


def _count(job: Job) -> Counted:
    with tempfile.TemporaryDirectory() as folder:
        where = (Path(folder), job.world, job.seed)
        job.data.write(*where)
        train, test = job.data.read_train(*where), job.data.read_test(*where)
    labels, classes = train.labels()
    modality = torch.from_numpy(train.modality)
    return Counted(
        labels=torch.from_numpy(labels), modality=modality, classes=classes, tested=len(test)
    )


def sample(job: Job, cell: Cell, classes: int) -> Sample:
    """Trains a cell for a few steps on random pixels, and evaluates some.

    Args:
        job: the cell's job.
        cell: which one; it starts from random weights.
        classes: training identities of the run.
    """
    short = [_short(recipe, job) for recipe in cell.recipes]
    finish = None if cell.finish is None else short[1]
    tried = dataclasses.replace(cell, recipe=short[0], finish=finish, starts_from=None)
    images = _random_images(job, short, classes)
    times: list[float] = []
    made: list[Any] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            times.append(time.perf_counter())

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            made.extend(train_cell(job, tried, Path(folder), images, note, every=1))

    memory: float | None = None
    if sys.platform == "linux":
        memory = peak_memory(job.training.device, train)
    else:
        train()
    model, built, _ = made
    factors = [_identities(r, job)[0] / _identities(r, job)[1] for r in cell.recipes]
    plans = [r.plan(job.network.baseline, images.labels, images.modality) for r in short]
    seconds = step_seconds(times, [plan.iterations for plan in plans])
    batch = [normalise(images.images, built), images.labels, images.cams, images.modality]
    started = time.perf_counter()
    features = features_of(model, [tuple(batch)])
    taken = time.perf_counter() - started
    related = 0 if features.related is None else features.related.shape[1]
    return Sample(
        seconds=tuple(f * s for f, s in zip(factors, seconds, strict=True)),
        image=taken / len(images.labels),
        parameters=sum(p.numel() for p in model.parameters()),
        columns=features.erased.shape[1] + related,
        memory=None if memory is None else memory * max(factors),
    )


def step_seconds(ends: Sequence[float], steps: Sequence[int]) -> list[float]:
    """Median seconds of a step, by training.

    Args:
        ends: when each step ended, in seconds, of one training after the other.
        steps: of each training, at least 2. The first one counts only as the start of the next:
            what stands before it is building and loading.
    """
    starts = [0, *accumulate(steps)]
    return [statistics.median(b - a for a, b in pairwise(ends[i:j])) for i, j in pairwise(starts)]


def _identities(recipe: Recipe | PublicRecipe, job: Job) -> tuple[int, int]:
    """Identities of the recipe's batch, and of a timed one."""
    labels, modality = torch.zeros(2).long(), torch.arange(2)
    plan = recipe.plan(job.network.baseline, labels, modality)
    height, width = job.network.image_size
    large = plan.p * plan.k * 2 * height * width > _LONG
    short = large and job.training.device == "cpu"
    return plan.p, min(plan.p, _FEW) if short else plan.p


def _short(recipe: Recipe | PublicRecipe, job: Job) -> Recipe | PublicRecipe:
    """The recipe for a few steps on few identities."""
    whole, few = _identities(recipe, job)
    steps = _STEPS if few == whole else _LONG_STEPS
    if isinstance(recipe, PublicRecipe):  # an epoch of so few images is a step or two
        return dataclasses.replace(recipe, epochs=steps, identities=few)
    return dataclasses.replace(recipe, iterations=steps, p=few, warmup=0)


def _random_images(job: Job, recipes: Sequence[Recipe | PublicRecipe], classes: int) -> TrainingSet:
    """Random pixels, as many as a batch of any of the recipes takes; the last class among them.

    The classifiers are then as wide as the run's.
    """
    labels, modality = torch.zeros(2).long(), torch.arange(2)
    plans = [recipe.plan(job.network.baseline, labels, modality) for recipe in recipes]
    p, k = max(plan.p for plan in plans), max(plan.k for plan in plans)
    identities = torch.cat([torch.arange(min(p, classes) - 1), torch.tensor([classes - 1])])
    labels = identities.repeat_interleave(2 * k)
    modality = torch.arange(2).repeat(len(identities) * k)
    pixels = torch.randint(0, 256, (len(labels), 3, *job.network.image_size), dtype=torch.uint8)
    shapes = pixels if create_loop(job.network.baseline).needs_shapes else None
    return TrainingSet(pixels, labels, modality, torch.where(modality == 1, 3, 1), shapes)


def _lines(
    config: Table3Config,
    out: Path,
    missing: list[tuple[Job, Cell]],
    samples: Mapping[str, Sample],
    images: Counted,
) -> list[str]:
    found: dict[str, list[float]] = {}
    for job, cell in missing:
        one = samples[_name(job, cell)]
        plans = [r.plan(job.network.baseline, images.labels, images.modality) for r in cell.recipes]
        seconds = sum(p.iterations * s for p, s in zip(plans, one.seconds, strict=True))
        seen = sum(p.iterations * p.p * p.k * 2 for p in plans)
        hours = (seconds + images.tested * one.image) / 3600
        row = [1, sum(p.iterations for p in plans), seen, hours]
        before = found.get(_name(job, cell), [0.0] * 4)
        found[_name(job, cell)] = [a + b for a, b in zip(before, row, strict=True)]
    total = [sum(column) for column in zip(*found.values(), strict=True)]
    body = [_row(name, f"{samples[name].seconds[0]:.3g}", row) for name, row in found.items()]
    several = "es" * (config.workers > 1)
    recipes = [(recipe, job) for job, cell in missing for recipe in cell.recipes]
    short = any(few < whole for whole, few in (_identities(*each) for each in recipes))
    part = f" with {_FEW} identities a batch" if short else ""
    text = (
        f"{total[3] / config.workers:,.2g} hours in {config.workers} process{several} on "
        f"{config.training.device}, by timed steps of each{part}. "
        f"{_memory(samples.values(), config)} {_disk(out, missing, samples, images, config)} "
        "Data, weights and options were checked; nothing was written."
    )
    title = (
        f"{config.name}: {len(images.labels):,} images of {images.classes:,} identities to train "
        f"on, {images.tested:,} images to test on."
    )
    table = aligned_table(
        ["", "networks", "steps", "images seen", "s a step", "hours"],
        [*body, _row("together", "", total)],
    )
    return [*textwrap.wrap(title, _WIDTH), "", table, "", *textwrap.wrap(text, _WIDTH)]


def _row(name: str, seconds: str, row: list[float]) -> list[str]:
    return [name, *(f"{value:,.0f}" for value in row[:3]), seconds, f"{row[3]:,.2g}"]


def _memory(samples: Any, config: Table3Config) -> str:
    known = [sample.memory for sample in samples if sample.memory is not None]
    if not known:
        return "Memory is measured on Linux alone."
    what = "of the GPU" if config.training.device == "cuda" else "a process"
    return f"Memory: {max(known) / _GB:.1f} GiB {what} for a step."


def _disk(
    out: Path,
    missing: list[tuple[Job, Cell]],
    samples: Mapping[str, Sample],
    images: Counted,
    config: Table3Config,
) -> str:
    height, width = max((job.network.image_size for job, _ in missing), key=lambda size: size[0])
    several = config.data.train.synthetic is not None  # images of each seed and world
    sets = len({(job.world, job.seed) for job, _ in missing}) if several else 1
    decoded = sets * (len(images.labels) + images.tested) * 3 * height * width
    every = [samples[_name(job, cell)] for job, cell in missing]
    networks = sum(4 * one.parameters for one in every)
    features = sum(4 * one.columns * images.tested for one in every)
    running = config.workers * _CHECKPOINT * 4 * max(one.parameters for one in every)
    whole = decoded + networks + features + running
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    warning = "" if free > whole else " THAT IS TOO LITTLE."
    return (
        f"Disk: {whole / _GB:.1f} GiB (decoded images {decoded / _GB:.1f}, networks and "
        f"checkpoints {(networks + running) / _GB:.1f}, features {features / _GB:.1f}); "
        f"{free / _GB:.1f} are free.{warning}"
    )
