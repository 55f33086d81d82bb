"""How long training waits for its batches, and what loading them costs it.

Two cores, the small network; ``--all`` measures the cases of the committed results: 48 x 24 and
128 x 64 pixels, our short recipe's augmentation and a public one's, one training of one thread, and
two of them at the same time (as ``table3`` trains)::

    python -m mixer_plugin.benchmarks.speed.loading_speed --all --out loading_speed.json

A GPU, ResNet-50 in bf16 and channels-last::

    python -m mixer_plugin.benchmarks.speed.loading_speed --device cuda --trunk resnet50 \
        --height 288 --width 144 --p 10 --k 4 --recipe saai --memory --out loading_speed_gpu.json

The trainer's own loop, ``fit``, trains the same network in every way of loading, the ways taking
turns: ``in line`` makes each batch when asked for it; ``1 thread(s)`` is what the trainer does;
with ``--memory`` also from images held in memory, and not mapped from the cache on disk (whose
pages are in memory too after the first touch: a cold disk is not measured). ``waited`` is the time
between asking for a batch and having it, ``step`` the time from one such moment to the next.

Loading threads share the cores with the training, so a short wait alone proves little. ``ready``
therefore trains on batches made before; ``slowdown`` is a way's step over that one, and
``cpu_over_ready`` compares the processor time of all threads. ``loading_cpu_ms`` is the processor
time of all threads but the training's own, which other load hardly changes, and
``loading_cpu_share`` what it adds to the training's (on the CPU with one thread; more threads, or a
GPU's, cannot be told apart). On a GPU the device is waited for at the end of each step and when the
batch is there: copy and augmentation then count as waiting, although they overlap with the step
without these stops, so the numbers are upper bounds.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.benchmarks.experiment.config import load_config
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.training import fit
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.public_recipe import Plan, PublicRecipe
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.data.datasets.llcm import read_llcm
from mixer_plugin.data.loading.batches import LoadedBatch, load_batches
from mixer_plugin.data.loading.cache import open_cache
from mixer_plugin.data.loading.public_augmentation import augmentation_of
from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.data.synthetic import layout_config, write_layout
from mixer_plugin.io.console import run_command

NETWORK = "saai-base"
READY = "ready"
# Steps that begin a turn: threads start, memory is taken, the first batch has no step to hide in.
BEGINNING = 2
PATIENCE = 600.0  # seconds that a process waits for the others to begin a turn

Way = Callable[..., Generator[LoadedBatch, None, None]]


@dataclasses.dataclass
class Times:
    """Seconds of each step.

    Attributes:
        waited: between asking for its batch and having it.
        step: from one such moment of asking to the next.
        cpu: processor time of all threads.
        own: processor time of the thread that trains.
    """

    waited: list[float] = dataclasses.field(default_factory=list)
    step: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    own: list[float] = dataclasses.field(default_factory=list)

    def add(self, more: Times) -> None:
        """Appends another's."""
        for name, values in vars(more).items():
            getattr(self, name).extend(values)

    def steady(self, ending: int) -> Times:
        """Without the beginning and the ending of the turn."""
        within = slice(BEGINNING, len(self.step) - ending)
        return Times(**{name: values[within] for name, values in vars(self).items()})


def timed(way: Way, times: Times, settle: Callable[[], None]) -> Way:
    """The same batches, with the times of the steps that take them."""

    def batches(*arguments: Any, **options: Any) -> Generator[LoadedBatch, None, None]:
        with closing(way(*arguments, **options)) as made:
            settle()
            asked, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
            for batch in made:
                settle()
                times.waited.append(time.perf_counter() - asked)
                yield batch
                settle()
                times.step.append(time.perf_counter() - asked)
                times.cpu.append(time.process_time() - cpu)
                times.own.append(time.thread_time() - own)
                asked, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()

    return batches


def in_line(
    pixels: Tensor, modality: Tensor, sampler: IdentitySampler, steps: range, **options: Any
) -> Generator[LoadedBatch, None, None]:
    """``load_batches`` that begins a batch when it is asked for."""
    for step in steps:
        with closing(load_batches(pixels, modality, sampler, [step], **options)) as one:
            yield from one


def ready(
    pixels: Tensor, modality: Tensor, sampler: IdentitySampler, steps: range, **options: Any
) -> Generator[LoadedBatch, None, None]:
    """A few batches made before the first step, over and over."""
    with closing(load_batches(pixels, modality, sampler, steps[:4], **options)) as made:
        held = list(made)
    for number, step in enumerate(steps):
        yield dataclasses.replace(held[number % len(held)], step=step)


def compare(folder: str, options: argparse.Namespace, start: Any = None) -> dict[str, Times]:
    """Trains with every way of loading in turn; times per way, over all turns.

    Args:
        folder: Holds ``set`` and ``cache``.
        options: The command line's.
        start: A barrier of the processes that train at the same time; None: this one alone.
    """
    torch.set_num_threads(options.threads)
    size = (options.height, options.width)
    images = read_llcm(Path(folder) / "set", "train")
    mapped = open_cache(images, size, Path(folder) / "cache")
    labels, modality = (torch.from_numpy(own) for own in (images.labels()[0], images.modality))
    cams = 1 + 2 * modality  # the network tells the modalities by SYSU-MM01's cameras
    data = fit.TrainingSet(mapped, labels, modality, cams)
    held = dataclasses.replace(data, images=mapped.clone())
    ways: dict[str, tuple[Way, Any]] = {READY: (ready, held), "in line": (in_line, data)}
    for workers in options.workers:
        ahead = partial(load_batches, workers=workers, depth=2 * workers)
        ways[f"{workers} thread(s)"] = ahead, data
        if options.memory:
            ways[f"{workers} thread(s), memory"] = ahead, held
    torch.manual_seed(0)
    start_model = create_baseline(NETWORK, data.classes, trunk=options.trunk, image_size=size)
    plan = plan_of(options, labels, modality)
    precision = "bf16" if options.device == "cuda" else "fp32"
    run = TrainingOptions(device=options.device, precision=precision)
    found = {name: Times() for name in ways}
    for _, name in harness.order(list(ways), options.rounds, warm_up=0):
        way, source = ways[name]
        model, turn = copy.deepcopy(start_model), Times()
        if start is not None:
            start.wait(PATIENCE)
        measured = timed(way, turn, partial(harness.wait_for, options.device))
        with mock.patch.object(fit, "load_batches", measured):
            parameters, loop = list(model.parameters()), create_loop(NETWORK)
            fit.fit(model, parameters, loop, source, plan, seed=0, options=run)
        found[name].add(turn.steady(ending(options)))
    return found


def ending(options: argparse.Namespace) -> int:
    """Steps at the end of a turn while which nothing is loaded any more."""
    return 2 * max(options.workers)


def plan_of(options: argparse.Namespace, labels: Tensor, modality: Tensor) -> Plan:
    """Our short recipe, or a public one; its batch and length are the command line's."""
    iterations = BEGINNING + options.steps + ending(options)
    if options.recipe is None:
        recipe = load_config("six").recipe
        assert isinstance(recipe, Recipe)
        return dataclasses.replace(recipe, p=options.p, k=options.k, iterations=iterations)
    public = PublicRecipe(identities=options.p, images=options.k)
    return dataclasses.replace(
        public.plan(NETWORK, labels, modality),
        augmentation=augmentation_of(load_recipe(options.recipe)),
        iterations=iterations,
    )


def case(options: argparse.Namespace) -> dict[str, Any]:
    """Measures one set of options: what was measured, on what, and the times of every way."""
    with tempfile.TemporaryDirectory() as folder:
        height, width = size = (options.height, options.width)
        # LLCM's layout: its training split has the validation persons too, and needs no SciPy.
        sizes = {"train_ids": options.ids - 1, "val_ids": 1, "test_ids": 1}
        views = ("visible_per_camera", "infrared_per_camera")
        single = dict.fromkeys([*views, *(f"test_{name}" for name in views)], 1)
        made = layout_config("llcm", **sizes, **single, height=height, width=width)
        write_layout(Path(folder) / "set", made, "llcm", workers=os.cpu_count() or 1)
        images = read_llcm(Path(folder) / "set", "train")
        seconds: harness.Seconds = {}
        for name in ("written_s", "opened_s"):
            with harness.timed(seconds, name):
                open_cache(images, size, Path(folder) / "cache")
        load = os.getloadavg()[0]
        found = in_processes(folder, options)
    alone = options.device == "cpu" and options.threads == 1
    summaries = {name: _summary(times, found[READY], alone) for name, times in found.items()}
    given = {k: v for k, v in vars(options).items() if k not in ("all", "out", "rounds")}
    return {
        "options": given | {"turns": options.rounds},
        "load_average": load,
        "cache": {"images": len(images), **{k: own for k, (own,) in seconds["wall"].items()}},
        "ready": summaries.pop(READY),
        "ways": summaries,
    }


def in_processes(folder: str, options: argparse.Namespace) -> dict[str, Times]:
    """The times of all processes; each begins every turn with the others."""
    if options.processes == 1:
        return compare(folder, options)
    context, count = multiprocessing.get_context("spawn"), options.processes
    with context.Manager() as manager, ProcessPoolExecutor(count, mp_context=context) as pool:
        start = manager.Barrier(count)
        begun = [pool.submit(compare, folder, options, start) for _ in range(count)]
        found = [future.result() for future in begun]
    for more in found[1:]:
        for name, times in more.items():
            found[0][name].add(times)
    return found[0]


def _summary(times: Times, without: Times, alone: bool) -> dict[str, float]:
    """``alone``: whether the only threads beside the training's are those that load."""
    median = statistics.median
    beside = [max(cpu - own, 0.0) for cpu, own in zip(times.cpu, times.own, strict=True)]
    mean, share = 1000 * statistics.mean(beside), sum(beside) / sum(times.own)
    return {
        "waited_ms": 1000 * median(times.waited),
        "step_ms": 1000 * median(times.step),
        "cpu_ms": 1000 * median(times.cpu),
        "waited_share": sum(times.waited) / sum(times.step),
        "waited_share_median": median(harness.paired(times.waited, times.step)),
        "slowdown": median(times.step) / median(without.step),
        "slowdown_minima": min(times.step) / min(without.step),
        "cpu_over_ready": median(times.cpu) / median(without.cpu),
        "cpu_over_ready_minima": min(times.cpu) / min(without.cpu),
        **({"loading_cpu_ms": mean, "loading_cpu_share": share} if alone else {}),
    }


def cases(options: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """The options of the committed results: sizes, recipes, trainings of one thread each."""
    for size, recipe, processes in product(((48, 24), (128, 64)), (None, "saai"), (1, 2)):
        own = {"height": size[0], "width": size[1], "recipe": recipe, "memory": True}
        runs = {"threads": 1, "processes": processes, "workers": [1]}
        yield argparse.Namespace(**{**vars(options), **own, **runs})


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = harness.speed_parser(__doc__, 6, "--turns")
    parser.add_argument("--all", action="store_true", help="the cases of the committed results")
    parser.add_argument("--trunk", default="small")
    parser.add_argument("--height", type=int, default=48)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--p", type=int, default=8, help="identities per batch")
    parser.add_argument("--k", type=int, default=3, help="images per identity and modality")
    parser.add_argument("--ids", type=int, default=150, help="identities, of 18 images each")
    parser.add_argument("--steps", type=int, default=10, help="of each turn")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="loading threads")
    parser.add_argument("--memory", action="store_true", help="also from images held in memory")
    parser.add_argument("--recipe", help="augment as this public recipe; default: as six.yaml")
    parser.add_argument("--processes", type=int, default=1, help="trainings at the same time")
    options = harness.parse(parser, arguments)
    found = []
    for own in cases(options) if options.all else [options]:
        found.append(case(own))
        _show(found[-1])
    measured = {"cases": found} if options.all else found[0]
    harness.write_json(options.out, harness.environment(options.device) | measured)
    return 0


def _show(found: dict[str, Any]) -> None:
    what = found["options"]
    print(
        f"{what['height']}x{what['width']}, {what['recipe'] or 'six'}, "
        f"{what['processes']} training(s) of {what['threads']} thread(s); "
        f"ready: {found['ready']['step_ms']:.1f} ms a step"
    )
    for name, way in found["ways"].items():
        print(
            f"  {name:20s} waited {way['waited_ms']:6.2f} ms ({way['waited_share']:5.1%}), "
            f"step x {way['slowdown']:.3f}, processor time x {way['cpu_over_ready']:.3f}"
            + (f", loading {way['loading_cpu_share']:.1%}" if "loading_cpu_share" in way else ""),
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(run_command("loading_speed", main))
