"""``mixer-plugin probe``."""

from __future__ import annotations

import argparse

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments

# Options on reading images, with their defaults; stored features refuse other values.
_OF_IMAGES = {
    "layout": None,
    "split": "test",
    "trial": None,
    "batch": 64,
    "workers": 0,
    "device": "cpu",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "mine.npz --out results/probe",
        "cells/saai-cues-seed0/baseline.pt --root /data/SYSU-MM01 --train-heads",
        "weights.pth --model torchvision:resnet18 --embed avgpool --root /data/SYSU-MM01",
        text="With --out, finished parts are kept there, and the same command continues.",
    )
    add = command.add_argument
    add("input", nargs="?", help="FeatureSet (.npz), cells/JOB/CELL.pt of table3, or weights")
    add("--root", help="folder of a data set; for stored features, of the one they are of")
    add("--layout", help="default: recognised by what is there")
    add("--split", help="images that are probed")
    add("--trial", type=int, help="RegDB's split, 1 to 10 (default: the network's, else 1)")
    add("--out", help="folder for probe.md, probe.json, the run card and what can be used again")
    add("--protocol", default="full", help="of the evaluation")
    add("--model", help="of the weights: module:function, or torchvision:NAME; no weights: random")
    add("--stage", help="of --model: path of its last stage, or several with commas")
    add("--embed", help="of --model: path of its embedding")
    add("--neck", help="of --model: path of a BatchNorm neck behind the embedding")
    add("--size", metavar="HxW", help="of --model: its images (default: 256x128)")
    add("--train-heads", action="store_true", help="train related heads on cached maps first")
    add("--iterations", type=int, help="steps of --train-heads (default: 800)")
    add("--copies", type=int, help="of --train-heads: cached copies of an image (default: 1)")
    add("--mixer", nargs="+", metavar="NAME=VALUE", help="of --train-heads: options of MixERConfig")
    add("--device", help="where the model runs: cpu or cuda")
    add("--batch", type=int, help="images at once")
    add("--workers", type=int, help="processes that read images")
    add("--seed", type=int, default=0, help="of folds, samples and heads")
    add("--folds", type=int, default=5, help="parts that the identities are cut into, at least 3")
    add("--limit", type=int, default=2000, help="about the most images of one probe")
    add_output_arguments(command, json=True, quiet=True)
    command.set_defaults(**_OF_IMAGES)


def run(options: argparse.Namespace) -> int:
    """Probes an input and prints the report."""
    from mixer_plugin.commands.evaluate.probe.work import run_probe

    return run_probe(options, _OF_IMAGES)
