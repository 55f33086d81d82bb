"""How time grows with the data: an epoch's training, and evaluation.

    python -m mixer_plugin.benchmarks.speed.growth --out benchmarks/results/growth

writes ``growth.json`` and ``growth.png``.

Training: synthetic sets of 1, 2 and 4 times as many identities, the smaller ones part of the larger
ones, in SYSU-MM01's layout, from the files to features: ``read`` (lists the images, decodes them
and writes the cache), ``epoch`` (a network with MixER, end to end, by the trainer's own loop: one
epoch is as many steps as whole batches go into the images) and ``features`` (of the training
images). Evaluation: 1, 4 and 16 times the gallery, as many queries in each, random features: all
six settings, the rules ``erased`` and ``mixer``, three calibrations, which is what
``mixer-plugin evaluate`` does.

The sizes take turns, so that other load on the machine meets them alike. Per size: medians and
minima of wall and processor time over the rounds. ``per_image`` is time per image over that of the
smallest size: 1 throughout is linear growth; below 1, a fixed cost is shared by more images.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixer_plugin import evaluate, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.benchmarks.experiment.config import load_config
from mixer_plugin.benchmarks.experiment.extract import decoded_batches, features_of
from mixer_plugin.benchmarks.experiment.run_cell import write_json
from mixer_plugin.benchmarks.speed.eval_speed import make_features
from mixer_plugin.benchmarks.training.fit import TrainingSet, fit
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.benchmarks.training.steps import WithMixER
from mixer_plugin.data.datasets.sysu import read_sysu
from mixer_plugin.data.loading.cache import open_cache
from mixer_plugin.data.synthetic import SyntheticConfig, write_layout
from mixer_plugin.errors import MissingExtraError
from mixer_plugin.features import Modality
from mixer_plugin.io.atomic_write import atomic_write

CALIBRATIONS = (None, "znorm", "center")
LABELS = {
    "read": "read and decode",
    "epoch": "one epoch of training",
    "features": "extract features",
    "evaluate": "evaluate: 6 settings, 2 rules, 3 calibrations",
}

Clock = dict[str, list[float]]


@contextmanager
def timed(clocks: dict[str, Clock], name: str) -> Iterator[None]:
    """Adds the wall and processor seconds of what is done within."""
    clock = clocks.setdefault(name, {"wall": [], "cpu": []})
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    clock["wall"].append(time.perf_counter() - wall)
    clock["cpu"].append(time.process_time() - cpu)


def training_points(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Times of training on every size: one point each, with the numbers of what was done."""
    points: list[dict[str, Any]] = []
    for factor in options.factors:
        config = SyntheticConfig(
            train_ids=options.ids * factor,
            val_ids=1,
            test_ids=1,
            height=options.height,
            width=options.width,
        )
        write_layout(folder / str(factor), config, "sysu")
        points.append({"factor": factor, "ids": config.train_ids, "seconds": {}})
    for turn in range(options.rounds + 1):  # the first one warms up
        for point in points[:1] if turn == 0 else points:
            root = folder / str(point["factor"])
            clocks: dict[str, Clock] = point["seconds"] if turn else {}
            point |= train(options, root, folder / f"cache{turn}", clocks)
    return points


def train(
    options: argparse.Namespace, root: Path, cache: Path, clocks: dict[str, Clock]
) -> dict[str, int]:
    """From the files to features once; returns the numbers of images and steps."""
    size = (options.height, options.width)
    with timed(clocks, "read"):
        images = read_sysu(root, "train")
        pixels = open_cache(images, size, cache, workers=1)
    columns = (images.labels()[0], images.modality, images.cams)
    data = TrainingSet(pixels, *map(torch.from_numpy, columns))
    recipe = load_config("demo").recipe
    assert isinstance(recipe, Recipe)
    recipe = dataclasses.replace(recipe, p=options.p, k=options.k)
    steps = recipe.epoch_steps(len(images))
    plan = dataclasses.replace(recipe, iterations=steps)
    torch.manual_seed(0)
    model = create_baseline("saai-base", data.classes, trunk=options.trunk, image_size=size)
    wrap_with_mixer(model, "e2e", seed=0)
    with timed(clocks, "epoch"):
        fit(
            model, list(model.parameters()), WithMixER(create_loop("saai-base")), data, plan, seed=0
        )
    with timed(clocks, "features"):
        features_of(model, decoded_batches(images, pixels, plan.augmentation))
    batch = 2 * options.p * options.k
    return {"images": len(images), "batch": batch, "steps": steps, "trained": steps * batch}


def evaluation_points(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times of evaluation on every size of the gallery; the queries are infrared images in it."""
    points: list[dict[str, Any]] = []
    features = []
    for factor in options.gallery_factors:
        made = make_features(
            options.dimensions, queries=options.queries, items=options.gallery * factor
        )
        features.append(made)
        queries = int((made.modality == Modality.INFRARED).sum())
        numbers = {"factor": factor, "images": len(made), "queries": queries}
        points.append({**numbers, "dimensions": options.dimensions, "seconds": {}})
    for turn in range(options.rounds + 1):
        for point, images in list(zip(points, features, strict=True))[: None if turn else 1]:
            clocks: dict[str, Clock] = point["seconds"] if turn else {}
            with timed(clocks, "evaluate"):
                evaluate(images, "full", calibration=CALIBRATIONS)
    return points


def summarise(points: list[dict[str, Any]]) -> None:
    """Adds to every clock of every point its median and minimum, and their growth per image."""
    for name in points[0]["seconds"]:
        for kind in ("wall", "cpu"):
            for statistic, function in (("median", statistics.median), ("minimum", min)):
                per_image = []
                for point in points:
                    clock = point["seconds"][name]
                    clock[f"{kind}_{statistic}"] = function(clock[kind])
                    per_image.append(clock[f"{kind}_{statistic}"] / images_of(point, name))
                for point, value in zip(points, per_image, strict=True):
                    growth = point.setdefault("per_image", {}).setdefault(name, {})
                    growth[f"{kind}_{statistic}"] = value / per_image[0]


def images_of(point: dict[str, Any], name: str) -> int:
    """How many images a time is for: of an epoch, those of its whole batches."""
    return int(point["trained" if name == "epoch" else "images"])


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws median times over images, those of the wall with the nearest lines through the origin.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    figure = _figure()
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    panels = figure.subplots(1, 2)
    for panel, part in zip(panels, ("training", "evaluation"), strict=True):
        points = result[part]
        for number, name in enumerate(points[0]["seconds"]):
            images = [images_of(point, name) for point in points]
            seconds = [point["seconds"][name]["wall_median"] for point in points]
            rate = statistics.median(s / n for s, n in zip(seconds, images, strict=True))
            panel.plot(images, seconds, "o", color=f"C{number}", label=LABELS[name])
            panel.plot(images, [rate * n for n in images], "--", color=f"C{number}", linewidth=1)
            cpu = [point["seconds"][name]["cpu_median"] for point in points]
            panel.plot(images, cpu, "s", color=f"C{number}", markerfacecolor="none", markersize=9)
        panel.set(xscale="log", yscale="log", ylabel="seconds")
        panel.set_xticks(images, [f"{n:,}" for n in images])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.minorticks_off()
        panel.grid(linewidth=0.3)
        panel.legend(fontsize=8)
    first = result["training"][0]
    panels[0].set(title=f"training, batches of {first['batch']}", xlabel="training images")
    first = result["evaluation"][0]
    title = f"evaluation, {first['queries']:,} queries, 2 x {first['dimensions']:,} dimensions"
    panels[1].set(title=title, xlabel="gallery images")
    figure.suptitle(
        "Medians; dots: wall time, dashed: proportional to the images; squares: processor time",
        fontsize=9,
    )
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "bench", "Drawing the growth") from error
    return Figure(figsize=(10, 4), layout="constrained")


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="How time grows with the data.")
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.png are written")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of every size")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ids", type=int, default=100, help="training identities, of 32 images")
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--trunk", default="small")
    parser.add_argument("--height", type=int, default=48)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--p", type=int, default=8, help="identities per batch")
    parser.add_argument("--k", type=int, default=3, help="images per identity and modality")
    parser.add_argument("--gallery", type=int, default=10_000, help="images of the smallest")
    parser.add_argument("--gallery-factors", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--dimensions", type=int, default=1024, help="of either feature")
    options = parser.parse_args(arguments)
    if options.queries >= options.gallery:
        parser.error("--queries are images of the gallery: give fewer than --gallery")
    torch.set_num_threads(options.threads)
    _figure()  # before minutes of work
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "device": "cpu",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "load_average": os.getloadavg()[0],
        "options": {k: v for k, v in vars(options).items() if k not in ("out", "threads")},
    }
    with tempfile.TemporaryDirectory() as folder:
        result["training"] = training_points(options, Path(folder))
    result["evaluation"] = evaluation_points(options)
    for part in ("training", "evaluation"):
        summarise(result[part])
        _show(result[part])
    write_json(options.out.with_suffix(".json"), result)
    draw(result, options.out.with_suffix(".png"))
    return 0


def _show(points: list[dict[str, Any]]) -> None:
    for name in points[0]["seconds"]:
        print(LABELS[name])
        for point in points:
            clock, growth = point["seconds"][name], point["per_image"][name]
            print(
                f"  x {point['factor']:<3d}{images_of(point, name):>8,} images: "
                f"{clock['wall_median']:8.2f} s, per image x {growth['wall_median']:.3f}; "
                f"processor {clock['cpu_minimum']:8.2f} s, x {growth['cpu_minimum']:.3f}"
            )


if __name__ == "__main__":
    sys.exit(main())
