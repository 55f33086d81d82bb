"""Images a second of the trainer itself, and of the loading of its batches.

    python -m mixer_plugin.benchmarks.gpu.trainer --device cuda --out trainer.json

``table3`` trains ``saai-base`` (ResNet-50, 288×144) by the public recipe, bare, (f) and end to end,
on generated images in memory: in bf16 and channels-last on a GPU, in float32 on a CPU.
``images_per_s`` is the median over epochs, the first one left out, by the wall's clock; the loss is
read at the end of an epoch, which waits for the device. ``peak_bytes`` is the most memory of a
training beyond what was held before: of a GPU's tensors, or of the process. ``loading`` is what the
same batches take without a network: read, copied to the device and augmented there.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import closing
from itertools import pairwise
from typing import Any

from mixer_plugin.baselines import create_loop
from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.gpu.generated import (
    NETWORK,
    config_of,
    images_of,
    train,
    training_parser,
)
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.training.fit import TrainingSet
from mixer_plugin.benchmarks.training.public_recipe import PublicPlan
from mixer_plugin.data.loading.batches import load_batches
from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.io.console import run_command

CELLS = ("baseline", "f", "e2e")


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = training_parser(__doc__, p=10, k=4, ids=40)
    parser.add_argument("--epochs", type=int, default=5, help="of each training, at least 2")
    options = harness.parse(parser, arguments)
    if options.epochs < 2:
        parser.error(f"--epochs must be at least 2, got {options.epochs}: the first is not timed")
    precision = "bf16" if options.device == "cuda" else "fp32"
    public = {"identities": options.p, "images": options.k, "epochs": options.epochs}
    run = {"device": options.device, "precision": precision}
    config = config_of(options, {"public": public}, run)
    images = images_of(config)
    plan = config.recipe.plan(NETWORK, images.labels, images.modality)
    assert isinstance(plan, PublicPlan)
    report: dict[str, Any] = harness.environment(options.device) | {
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "precision": precision,
        "batch": 2 * plan.p * plan.k,
        "epoch_steps": plan.steps,
        "images": len(images.labels),
        "loading": loading(images, plan, options.device),
        "cells": {},
    }
    print(f"loading: {report['loading']['images_per_s']:.0f} images/s", flush=True)
    for name in CELLS:
        report["cells"][name] = found = measure(config, name, images, plan)
        print(f"{name}: {found['images_per_s']:.0f} images/s", flush=True)
        harness.write_json(options.out, report)
    return 0


def measure(
    config: Table3Config, name: str, images: TrainingSet, plan: PublicPlan
) -> dict[str, Any]:
    """Trains a cell: its images a second, its peak memory and the loss after every epoch."""
    losses: list[float] = []
    times: list[float] = []

    def note(loss: float) -> None:
        losses.append(loss)
        times.append(time.perf_counter())

    def run() -> None:
        train(config, name, images, plan.steps, note)

    peak = harness.peak_memory(config.training.device, run)
    return _rates(times, plan) | {"peak_bytes": peak, "losses": losses}


def loading(images: TrainingSet, plan: PublicPlan, device: str) -> dict[str, Any]:
    """Images a second of the training's batches, made by its one thread, without a network."""
    sampler = IdentitySampler(
        images.labels,
        images.modality,
        p=plan.p,
        k=plan.k,
        order=create_loop(NETWORK).rows,
        iterations=plan.iterations,
        seed=0,
    )
    made = load_batches(
        images.images,
        images.modality,
        sampler,
        range(plan.iterations),
        augmentation=plan.augmentation,
        seed=0,
        device=device,
    )
    times = []
    with closing(made) as batches:
        for batch in batches:
            if (batch.step + 1) % plan.steps == 0:
                harness.wait_for(device)
                times.append(time.perf_counter())
    return _rates(times, plan)


def _rates(times: list[float], plan: PublicPlan) -> dict[str, Any]:
    """Seconds of every epoch but the first, from the times at which they ended; images a second."""
    seconds = [later - earlier for earlier, later in pairwise(times)]
    images = plan.steps * 2 * plan.p * plan.k
    return {"epoch_seconds": seconds, "images_per_s": images / statistics.median(seconds)}


if __name__ == "__main__":
    sys.exit(run_command("trainer", main))
