"""``mixer-plugin probe``."""

from __future__ import annotations

import argparse


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.epilog = "With --out, finished parts are kept there, and the same command continues."
    add = command.add_argument
    add("input", nargs="?", help="FeatureSet (.npz), cells/JOB/CELL.pt of table3, or weights")
    add("--root", help="folder of a data set; for stored features, of the one they are of")
    add("--layout", help="default: recognised by what is there")
    add("--split", default="test", help="images that are probed (default test)")
    add("--trial", type=int, help="RegDB's split, 1 to 10 (default 1)")
    add("--out", help="folder for probe.md, probe.json, the run card and what can be used again")
    add("--protocol", default="full", help="of the evaluation (default full)")
    add("--model", help="of the weights: module:function, or torchvision:NAME; no weights: random")
    add("--stage", help="of --model: path of its last stage, or several with commas")
    add("--embed", help="of --model: path of its embedding")
    add("--neck", help="of --model: path of a BatchNorm neck behind the embedding")
    add("--size", help="of --model: HEIGHTxWIDTH of its images (default 256x128)")
    add("--train-heads", action="store_true", help="train related heads on cached maps first")
    add("--iterations", type=int, help="steps of --train-heads (default 800)")
    add("--copies", type=int, help="of --train-heads: cached copies of an image, one plain")
    add("--device", default="cpu", help="where the model runs: cpu (default) or cuda")
    add("--batch", type=int, default=64, help="images at once (default 64)")
    add("--workers", type=int, default=0, help="processes that read images")
    add("--seed", type=int, default=0)
    add("--folds", type=int, default=5, help="parts of the identities (default 5)")
    add("--images", type=int, default=2000, help="images of a probe at most (default 2000)")


def run(options: argparse.Namespace) -> int:
    """Probes an input and prints the report."""
    from mixer_plugin.commands.probe_run import run_probe

    return run_probe(options)
