"""Arguments that several commands have in common: the model, and how its images are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from mixer_plugin.errors import MixERValueError


def add_model_arguments(command: argparse.ArgumentParser, *, bare: bool = True) -> None:
    """Adds the arguments that say which model; ``bare``: whether one without MixER will do."""
    add = command.add_argument_group("the model").add_argument
    add("--model", help="module:function, a call of it, torchvision:NAME, or CELL.pt of table3")
    add("--weights", help="the training loop's checkpoint (default: as the function builds it)")
    if bare:
        add("--bare", action="store_true", help="without MixER: erased is its own embedding")
    else:
        command.set_defaults(bare=False)
    also = "; with --bare also: output" if bare else ""
    add("--embed", help=f"module whose output is the embedding{also}")
    add("--wrap", choices=("f", "e2e"), help="wrap what the function builds, as the training did")
    add("--adapter", help="of a model that is not wrapped (default: recognised)")
    add("--stage", help="of --wrap: path of the last stage, or several with commas")
    add("--neck", help="of --wrap: path of a BatchNorm neck behind the embedding")
    add("--classes", type=int, help="of --wrap: training identities (default: read off the model)")
    add("--mixer", nargs="+", metavar="NAME=VALUE", help="of --wrap: options of MixERConfig")


def add_reading_arguments(command: argparse.ArgumentParser) -> Callable[..., Any]:
    """Adds the options that say how images are read; returns what adds more of them."""
    add = command.add_argument_group("reading").add_argument
    add("--size", metavar="HxW", help="of the images (default: 256x128; of table3, its own)")
    add("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="default: ImageNet's")
    add("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="default: ImageNet's")
    add("--device", default="cpu", help="cpu or cuda")
    add("--precision", default="fp32", help="that the model runs in: fp32, bf16 or fp16")
    return add


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of ``256x128``; ``MixERValueError`` for another form."""
    try:
        height, width = map(int, text.split("x"))
    except ValueError:
        raise MixERValueError(f"--size is {text!r}; expected HEIGHTxWIDTH, e.g. 256x128.") from None
    return height, width
