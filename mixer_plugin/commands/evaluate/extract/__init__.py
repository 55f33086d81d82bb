"""``mixer-plugin extract``."""

from __future__ import annotations

import argparse

from mixer_plugin.commands.shared.arguments import add_model_arguments, add_reading_arguments
from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "--model torchvision:resnet18 --weights resnet18.pth --bare --embed avgpool "
        "--images crops --out bare.npz",
        "--model my_network:build --weights best.pth --wrap e2e --images crops --out mine.npz",
        "cells/saai-cues-seed0/e2e.pt /data/SYSU-MM01 --out sysu.npz --device cuda",
        text="Features are written as they come, and the same command continues after an "
        "interruption. Several processes share the images: torchrun --nproc-per-node N -m "
        "mixer_plugin.cli extract … writes the same file.",
    )
    add = command.add_argument
    add("checkpoint", nargs="?", help="short for --model, of a network of table3")
    add("root", nargs="?", help="short for --images, of a data set")
    add("--out", required=True, help="FeatureSet file (.npz) to write")
    add_output_arguments(command, json=True, quiet=True)
    add_model_arguments(command)
    add = command.add_argument_group("the images").add_argument
    add("--images", help="folder of crops, CSV of paths, or folder of a data set")
    add("--modality", help="of images that name none: visible, infrared, or auto (by the pixels)")
    add("--cameras", help="CSV of the modality of each camera or folder")
    add("--split", help="of a data set: train, test or SYSU's val (default: test)")
    add("--layout", help="of a data set (default: recognised by what is there)")
    add("--trial", type=int, help="RegDB's split, 1 to 10 (default: the network's, else 1)")
    add = add_reading_arguments(command)
    add("--batch", type=int, default=128, help="images at once")
    add("--workers", type=int, default=2, help="threads that read images")


def run(options: argparse.Namespace) -> int:
    """Extracts the features of images and writes them."""
    from mixer_plugin.commands.evaluate.extract.work import run_extract

    return run_extract(options)
