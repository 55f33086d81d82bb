"""``mixer-plugin table3``."""

from __future__ import annotations

import argparse
import sys


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.add_argument("--resume", action="store_true", help="continue what --out holds")
    add_run_arguments(command)


def add_run_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments that select a run, which ``report`` shares."""
    command.add_argument("--config", default="demo", help="YAML file, or a packaged name")
    command.add_argument("--out", default="results/table3", help="result folder")
    command.add_argument("--paper", action="store_true", help="add e2e as eq. 16 reads literally")
    command.add_argument(
        "--weights", help="of the trunk: imagenet (torchvision's), a file, or none (random)"
    )


def run(options: argparse.Namespace) -> int:
    """Trains and evaluates a configuration's networks and prints the tables."""
    from mixer_plugin.benchmarks.table3 import run_file

    given = {name: getattr(options, name) for name in ("resume", "paper", "weights")}
    tables = run_file(options.config, options.out, **given)
    if tables:  # of several processes, the first one has them
        print(tables)
        print(f"Tables, pictures and run card: {options.out}", file=sys.stderr)
    return 0
