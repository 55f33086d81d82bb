"""How time grows with the data: an epoch's training, and evaluation.

    python -m mixer_plugin.benchmarks.speed.growth --out benchmarks/results/growth

writes ``growth.json`` and ``growth.svg``.

Training: synthetic sets of 1, 2 and 4 times as many identities, the smaller ones part of the larger
ones, in SYSU-MM01's layout, from the files to features: ``read`` (lists the images, decodes them
and writes the cache), ``epoch`` (a network with MixER, end to end, by the trainer's own loop: one
epoch is as many steps as whole batches go into the images) and ``features`` (of the training
images). Evaluation: 1, 4 and 16 times the gallery, as many queries in each, random features: all
six settings, the rules ``erased`` and ``mixer``, three calibrations. (``mixer-plugin evaluate``
adds the rule ``mixer-shuffled``.)

The sizes take turns. Per size: medians and minima of wall and processor time over the rounds.
``per_image`` is time per image over that of the smallest size: 1 throughout is linear growth; below
1, a fixed cost is shared by more images.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch

from mixer_plugin import evaluate, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.benchmarks.experiment.config import load_config
from mixer_plugin.benchmarks.experiment.images import decoded_batches, features_of
from mixer_plugin.benchmarks.experiment.pictures import pyplot, save_figure
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.speed.eval_speed import make_features
from mixer_plugin.benchmarks.training.fit import TrainingSet, fit
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.benchmarks.training.steps import WithMixER
from mixer_plugin.data.datasets.sysu import read_sysu
from mixer_plugin.data.loading.cache import open_cache
from mixer_plugin.data.synthetic import SyntheticConfig, write_layout
from mixer_plugin.features import Modality
from mixer_plugin.io.console import run_command

CALIBRATIONS = (None, "znorm", "center")
LABELS = {
    "read": "read and decode",
    "epoch": "one epoch of training",
    "features": "extract features",
    "evaluate": "evaluate: 6 settings, 2 rules, 3 calibrations",
}


def training_points(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Times of training on every size: one point each, with the numbers of what was done."""
    points: dict[int, dict[str, Any]] = {}
    for factor in options.factors:
        ids, size = options.ids * factor, {"height": options.height, "width": options.width}
        config = SyntheticConfig(train_ids=ids, val_ids=1, test_ids=1, **size)
        write_layout(folder / str(factor), config, "sysu")
        points[factor] = {"factor": factor, "ids": ids, "seconds": {}}
    for number, factor in harness.order(list(points), options.rounds, warm_up=1):
        seconds: harness.Seconds = points[factor]["seconds"] if number else {}
        points[factor] |= train(options, folder / str(factor), folder / f"cache{number}", seconds)
    return list(points.values())


def train(
    options: argparse.Namespace, root: Path, cache: Path, seconds: harness.Seconds
) -> dict[str, int]:
    """From the files to features once; returns the numbers of images and steps."""
    size, device = (options.height, options.width), options.device
    with harness.timed(seconds, "read", device=device):
        images = read_sysu(root, "train")
        pixels = open_cache(images, size, cache, workers=1)
    columns = (images.labels()[0], images.modality, images.cams)
    data = TrainingSet(pixels, *map(torch.from_numpy, columns))
    recipe = load_config("six").recipe
    assert isinstance(recipe, Recipe)
    recipe = dataclasses.replace(recipe, p=options.p, k=options.k)
    steps = recipe.epoch_steps(len(images))
    plan = dataclasses.replace(recipe, iterations=steps)
    torch.manual_seed(0)
    model = create_baseline("saai-base", data.classes, trunk=options.trunk, image_size=size)
    wrap_with_mixer(model, "e2e", seed=0)
    loop = WithMixER(create_loop("saai-base"))
    with harness.timed(seconds, "epoch", device=device):
        run = TrainingOptions(device=device)
        fit(model, list(model.parameters()), loop, data, plan, seed=0, options=run)
    with harness.timed(seconds, "features", device=device):
        features_of(model, decoded_batches(images, pixels, plan.augmentation))
    batch = 2 * options.p * options.k
    return {"images": len(images), "batch": batch, "steps": steps, "trained": steps * batch}


def evaluation_points(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times of evaluation on every size of the gallery; the queries are infrared images in it."""
    points: dict[int, dict[str, Any]] = {}
    galleries = {}
    width, queries, device = options.dimensions, options.queries, options.device
    for factor in options.gallery_factors:
        made = make_features(width, queries=queries, items=options.gallery * factor)
        asked = int((made.modality == Modality.INFRARED).sum())
        numbers = {"factor": factor, "images": len(made), "queries": asked}
        points[factor] = {**numbers, "dimensions": width, "seconds": {}}
        galleries[factor] = made
    for number, factor in harness.order(list(points), options.rounds, warm_up=1):
        seconds = points[factor]["seconds"] if number else {}
        with harness.timed(seconds, "evaluate", device=device):
            evaluate(galleries[factor], "full", calibration=CALIBRATIONS, device=device)
    return list(points.values())


def summarise(points: list[dict[str, Any]]) -> None:
    """Orders every point's seconds by name, and adds their statistics and growth per image."""
    for point in points:
        taken, first = point.pop("seconds"), points[0]
        point |= {"seconds": {}, "per_image": {}}
        for name in taken["wall"]:
            clocks = point["seconds"][name] = {clock: taken[clock][name] for clock in taken}
            growth = point["per_image"][name] = {}
            for clock, which in product(taken, ("median", "minimum")):
                key = f"{clock}_{which}"
                clocks[key] = harness.STATISTICS[which](clocks[clock])
                own = clocks[key] / images_of(point, name)
                growth[key] = own / (first["seconds"][name][key] / images_of(first, name))


def images_of(point: dict[str, Any], name: str) -> int:
    """How many images a time is for: of an epoch, those of its whole batches."""
    return int(point["trained" if name == "epoch" else "images"])


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws median times over images, those of the wall with the nearest lines through the origin.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    plt = pyplot()
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure, panels = plt.subplots(1, 2, figsize=(10, 4))
    train, gallery = result["training"][0], result["evaluation"][0]
    asked = f"{gallery['queries']:,} queries, 2 x {gallery['dimensions']:,} dimensions"
    shown = {
        "training": ("training images", f"training, batches of {train['batch']}"),
        "evaluation": ("gallery images", f"evaluation, {asked}"),
    }
    for panel, (part, (label, title)) in zip(panels, shown.items(), strict=True):
        points = result[part]
        for number, name in enumerate(points[0]["seconds"]):
            images = [images_of(point, name) for point in points]
            clocks = [point["seconds"][name] for point in points]
            wall, cpu = ([own[f"{kind}_median"] for own in clocks] for kind in harness.CLOCKS)
            rate = statistics.median(s / n for s, n in zip(wall, images, strict=True))
            colour = f"C{number}"
            panel.plot(images, wall, "o", color=colour, label=LABELS[name])
            panel.plot(images, [rate * n for n in images], "--", color=colour, linewidth=1)
            panel.plot(images, cpu, "s", color=colour, markerfacecolor="none", markersize=9)
        panel.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds", title=title)
        panel.set_xticks(images, [f"{n:,}" for n in images])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.minorticks_off()
        panel.grid(linewidth=0.3)
        panel.legend(fontsize=8)
    dots = "dots: wall time, dashed: proportional to the images; squares: processor time"
    figure.suptitle(f"Time grows with the images. Medians; {dots}", fontsize=9)
    save_figure(figure, path)


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = harness.speed_parser(__doc__, 3)
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
    options = harness.parse(parser, arguments)
    if options.out is None:
        parser.error("--out OUT is needed: OUT.json and OUT.svg are written")
    if options.queries >= options.gallery:
        parser.error("--queries are images of the gallery: give fewer than --gallery")
    pyplot()  # fails before minutes of work
    given = {k: v for k, v in vars(options).items() if k not in ("out", "threads")}
    result = harness.environment(options.device) | {"options": given}
    with tempfile.TemporaryDirectory() as folder:
        result["training"] = training_points(options, Path(folder))
    result["evaluation"] = evaluation_points(options)
    for part in ("training", "evaluation"):
        summarise(result[part])
        _show(result[part])
    harness.write_json(options.out.with_suffix(".json"), result)
    draw(result, options.out.with_suffix(".svg"))
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
    sys.exit(run_command("growth", main))
