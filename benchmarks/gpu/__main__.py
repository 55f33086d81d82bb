"""Tests, speed, memory and agreement on a GPU, within ten minutes, into one folder.

    python -m mixer_plugin.benchmarks.gpu --minutes 8 --out DIR

From the root of a source tree, which need not be installed; PyTorch, NumPy and PyYAML are enough,
and a part that needs another package is left out where that is missing. Every part is a process of
its own, which is ended when its share of the minutes is over; what it leaves of it, later parts may
use. ``DIR/gpu.json`` (date, device, versions, commit, and what each part wrote) and
``DIR/summary.txt`` are written after every part, so that an interruption loses nothing;
``DIR/parts`` holds each part's own figures and output. ``--quick`` runs everything in miniature,
with ``--device cpu`` also without a GPU: it shows that the parts run, not how fast.

Ends with status 0 if every part is done or left out, 1 if one failed or ran out of time, 2 for a
wrong argument or where there is no GPU, and 130 or 143 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mixer_plugin.benchmarks.gpu.parts import MINUTES, PARTS, Part
from mixer_plugin.benchmarks.gpu.run import FAILED, LATE, Outcome, run_parts
from mixer_plugin.benchmarks.gpu.summary import summary
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.training.signals import Interrupted, sigterm_raises
from mixer_plugin.io.atomic_write import write_text
from mixer_plugin.io.console import INTERRUPTED, WRONG_INPUT, run_command
from mixer_plugin.run_card import commit


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m mixer_plugin.benchmarks.gpu",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, summary.txt")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="in miniature, on a CPU too")
    names = [part.name for part in PARTS]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="PART", help=f"some of: {', '.join(names)}"
    )
    options = parser.parse_args(arguments)
    if not (math.isfinite(options.minutes) and options.minutes > 0):
        parser.error(f"--minutes must be a number above 0, got {options.minutes:g}")
    if options.device == "cpu" and not options.quick:
        return _refuse("--device cpu runs in miniature only: add --quick.")
    if options.device == "cuda" and not torch.cuda.is_available():
        return _refuse(
            "PyTorch sees no CUDA device here. --device cpu --quick runs everything in miniature."
        )
    parts = [part for part in PARTS if options.only is None or part.name in options.only]
    return run(parts, options)


def run(parts: Sequence[Part], options: argparse.Namespace) -> int:
    """Runs parts, keeps and prints the report; returns the exit status."""
    (options.out / "parts").mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        **harness.environment(options.device),
        "commit": commit(),
        "minutes": options.minutes,
        "quick": options.quick,
        "parts": {},
    }
    try:
        with sigterm_raises():
            outcomes = run_parts(
                parts,
                options.out / "parts",
                minutes=options.minutes,
                device=options.device,
                quick=options.quick,
                keep=partial(_keep, report, parts, options.out),
            )
    except KeyboardInterrupt as stop:
        print(f"{summary(report, parts)}\nInterrupted; {options.out} holds what was found.")
        return stop.status if isinstance(stop, Interrupted) else INTERRUPTED
    print(summary(report, parts), end="")
    return int(any(own["state"] in (FAILED, LATE) for own in outcomes.values()))


def _keep(
    report: dict[str, Any], parts: Sequence[Part], folder: Path, outcomes: Mapping[str, Outcome]
) -> None:
    report["parts"] = dict(outcomes)
    harness.write_json(folder / "gpu.json", report)
    write_text(folder / "summary.txt", summary(report, parts))


def _refuse(sentence: str) -> int:
    print(f"gpu: {sentence}", file=sys.stderr)
    return WRONG_INPUT


if __name__ == "__main__":
    sys.exit(run_command("gpu", main))
