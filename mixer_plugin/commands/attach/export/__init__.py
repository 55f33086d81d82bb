"""``mixer-plugin export``."""

from __future__ import annotations

import argparse

from mixer_plugin.commands.shared.arguments import add_model_arguments
from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "cells/saai-cues-seed0/e2e.pt --out model.onnx",
        "--model my_network:build --weights best.pth --wrap e2e --size 288x144 --out model.pt2",
        text="Inputs: images [B, 3, H, W] float32, normalised as in the training, and modality "
        "[B] int64, 0 visible, 1 infrared. Outputs: erased, related, fused. The file is compared "
        "with the model before it is put in place.",
    )
    add = command.add_argument
    add("checkpoint", nargs="?", help="short for --model, of a network of table3")
    add_model_arguments(command, bare=False)
    add("--out", required=True, help="file to write: NAME.onnx, or NAME.pt2 of torch.export")
    add("--size", metavar="HxW", help="of the images (default: 256x128; of table3, its own)")
    add_output_arguments(command, json=True)


def run(options: argparse.Namespace) -> int:
    """Exports a wrapped model."""
    from mixer_plugin.commands.attach.export.work import run_export

    return run_export(options)
