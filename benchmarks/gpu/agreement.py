"""Does a GPU train as the CPU does? The losses of the first steps, side by side.

    python -m mixer_plugin.benchmarks.gpu.agreement --device cuda --out agreement.json

One network (``saai-base``, ResNet-50, 288×144) with and without MixER, the same weights, generated
images and batches, in float32 with deterministic operations and without TF32, by ``table3``'s own
trainer: on the CPU with contiguous maps, then on the device with channels-last ones. Both orders of
memory sum up differently, so that a CPU does not agree with itself to the last bit either.

The first loss shows the forward, the others the gradients and the optimizer as well. Rounding grows
from step to step, since Adam's first steps follow the signs of the gradient. On a CPU, ResNet-50 at
144×72 and 16 images differed from itself by 3e-6 in the first loss and by at most 1.1e-3 in the
next four. The tolerances are 1e-4 for the first loss and 1e-2 for the others. Convolutions rounded
as TF32 does moved the first loss by 2e-4 and 6e-4, a third of the learning rate the others by 2 to
6 %. The rate is the one that the public recipe begins with. A loss outside ends in status 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from typing import Any

import torch

from mixer_plugin.benchmarks.gpu.generated import config_of, images_of, train, training_parser
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.io.console import run_command

CELLS = ("baseline", "e2e")
FIRST, LATER = 1e-4, 1e-2  # largest relative differences of the first loss and of the others
_RECIPE = {"lr": 3.5e-5, "warmup": 0, "optimizer": "adam", "augmentation": {"flip": 0.0}}


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = training_parser(__doc__, p=4, k=2, ids=8)
    parser.add_argument("--steps", type=int, default=5, help="of each training")
    options = harness.parse(parser, arguments)
    plain_float32()
    given = {name: value for name, value in vars(options).items() if name != "out"}
    report: dict[str, Any] = harness.environment(options.device) | {
        "options": given,
        "tolerance": {"first": FIRST, "later": LATER},
        "cells": {},
    }
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        for name in CELLS:
            report["cells"][name] = found = compare(options, name)
            report["not_deterministic"] = sorted(
                {str(one.message) for one in noted if "deterministic" in str(one.message)}
            )
            print(_line(name, found), flush=True)
            harness.write_json(options.out, report)
    return int(not all(found["agrees"] for found in report["cells"].values()))


def plain_float32() -> None:
    """Deterministic operations where there are any, and no TF32, in this process from now on."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch >= 2.9
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    else:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False


def compare(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """The losses of a cell's training in both places, and how far they differ."""
    here = losses(options, name, {"device": "cpu", "channels_last": False})
    there = losses(options, name, {"device": options.device, "channels_last": True})
    return judged(here, there)


def losses(options: argparse.Namespace, name: str, training: dict[str, Any]) -> list[float]:
    """The loss of every step of a short training in float32."""
    recipe = {**_RECIPE, "p": options.p, "k": options.k, "iterations": options.steps}
    config = config_of(options, recipe, {"precision": "fp32", **training})
    found: list[float] = []
    train(config, name, images_of(config), 1, found.append)
    return found


def judged(here: list[float], there: list[float]) -> dict[str, Any]:
    """Two courses of the loss, their relative differences, and whether these are within bounds."""
    pairs = zip(here, there, strict=True)
    differences = [abs(other - one) / abs(one) for one, other in pairs]
    bounds = [FIRST, *[LATER] * (len(here) - 1)]
    return {
        "cpu": here,
        "device": there,
        "differences": differences,
        "agrees": all(d <= b for d, b in zip(differences, bounds, strict=True)),
    }


def _line(name: str, found: dict[str, Any]) -> str:
    shown = ", ".join(f"{value:.1e}" for value in found["differences"])
    return f"{name}: {'within' if found['agrees'] else 'OUTSIDE'} the tolerance; {shown}"


if __name__ == "__main__":
    sys.exit(run_command("agreement", main))
