"""``mixer-plugin report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixer_plugin.commands.table3 import add_run_arguments, chosen_config


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.add_argument("--format", default="md", choices=("md", "tex", "csv", "json"))
    add_run_arguments(command)


def run(options: argparse.Namespace) -> int:
    """Prints the tables of a run of ``table3``, finished or not."""
    from mixer_plugin.benchmarks.table3 import configured, report

    config = configured(chosen_config(options), options.paper, options.weights)
    print(report(config, Path(options.out), options.format))
    return 0
