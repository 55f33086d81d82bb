"""``mixer-plugin report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments, for_people, show
from mixer_plugin.commands.train.table3 import add_run_arguments, chosen_config
from mixer_plugin.errors import MixERValueError


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "--config demo --out results/demo",
        "mine.npz other.npz --html report.html",
        "results/demo --html report.html",
        text="With --html: one page of one or more features of the same images, or of a run of "
        "table3. Without: the tables of the run that --config and --out name.",
    )
    command.add_argument("inputs", nargs="*", help="features (.npz), or the folder of a run")
    command.add_argument("--html", metavar="FILE", help="write one page that needs no network")
    command.add_argument("--protocol", default="full", help="of features: as evaluate takes it")
    command.add_argument("--settings", help="of features: comma-separated")
    command.add_argument("--rules", help="of features: comma-separated")
    command.add_argument("--query", choices=("infrared", "visible", "both"), help="of features")
    command.add_argument("--trials", type=int, help="of features: number of gallery draws")
    command.add_argument(
        "--format", choices=("md", "tex", "csv", "json"), help="of the tables (default: md)"
    )
    add_output_arguments(command, json=True)
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
        show(options, f"Report: {options.html}", {"report": options.html})
        return 0
    from mixer_plugin.benchmarks.table3 import configured, report

    config = configured(chosen_config(options), options.paper, options.weights)
    form = options.format or ("json" if options.json else "md")
    if options.json and form != "json":
        raise MixERValueError(
            f"--json and --format {form} both say what is printed; give one of them."
        )
    text = report(config, Path(options.out), form)
    print(text if options.format or options.json else for_people(text))
    return 0
