"""``mixer-plugin export``."""

from __future__ import annotations

import argparse
from typing import Any

from mixer_plugin.commands.shared.model import (
    add_model_arguments,
    check_model,
    find_model,
    given_once,
    size_of,
)
from mixer_plugin.export import export_model


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.epilog = (
        "Inputs: images [B, 3, H, W] float32, normalised as in the training, and modality [B] "
        "int64, 0 visible, 1 infrared. Outputs: erased, related, fused. The file is compared with "
        "the model before it is put in place."
    )
    add = command.add_argument
    add("checkpoint", nargs="?", help="short for --model, of a network of table3")
    add_model_arguments(command, bare=False)
    add("--out", required=True, help="file to write: NAME.onnx, or NAME.pt2 of torch.export")
    add("--size", help="HEIGHTxWIDTH of the images (default 256x128; table3: its own)")


def run(options: argparse.Namespace) -> int:
    """Exports a wrapped model.

    Raises:
        MixERError: Options do not fit together, the model is not what it should be, or the exported
            one gives something else.
        OSError: A file cannot be read or written.
    """
    given_once(options, "model", "checkpoint")
    given: dict[str, Any] = {} if options.size is None else {"size": size_of(options.size)}
    check_model(options)
    found = find_model(options)
    if found.built is not None:
        given["size"] = found.built.image_size
    report = export_model(found.model, options.out, **given)
    erased, related, fused = report.widths
    print(
        f"{report.path}: erased {erased}, related {related}, fused {fused} columns; within "
        f"{report.difference:.0e} of the model"
    )
    return 0
