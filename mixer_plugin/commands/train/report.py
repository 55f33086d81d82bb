"""``mixer-plugin report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixer_plugin.commands.train.table3 import add_run_arguments, chosen_config
from mixer_plugin.errors import MixERValueError


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.epilog = (
        "With --html: one page of one or more features of the same images, or of a run of table3. "
        "Without: the tables of the run that --config and --out name."
    )
    command.add_argument("inputs", nargs="*", help="features (.npz), or the folder of a run")
    command.add_argument("--html", metavar="FILE", help="write one page that needs no network")
    command.add_argument("--protocol", default="full", help="of features: as evaluate takes it")
    command.add_argument("--settings", help="of features: comma-separated")
    command.add_argument("--rules", help="of features: comma-separated")
    command.add_argument("--query", choices=("infrared", "visible", "both"), help="of features")
    command.add_argument("--trials", type=int, help="of features: number of gallery draws")
    command.add_argument("--format", default="md", choices=("md", "tex", "csv", "json"))
    add_run_arguments(command)


def run(options: argparse.Namespace) -> int:
    """Writes a page, or prints the tables of a run of ``table3``, finished or not."""
    if bool(options.html) != bool(options.inputs):
        raise MixERValueError(
            "A page needs both what it shows and a file: report FEATURES.npz --html FILE.html. The "
            "tables of a run need neither: report --config FILE --out DIR."
        )
    if options.html:
        from mixer_plugin.commands.evaluate.html_report import write_html

        write_html(options)
        print(f"Report: {options.html}")
        return 0
    from mixer_plugin.benchmarks.table3 import configured, report

    config = configured(chosen_config(options), options.paper, options.weights)
    print(report(config, Path(options.out), options.format))
    return 0
