"""``mixer-plugin table3``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.packaged import packaged_configs
from mixer_plugin.commands.shared.telling import add_output_arguments, note
from mixer_plugin.errors import MixERValueError


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "--config demo --out results/demo",
        "--config sysu-saai.yaml --dry-run",
        "--config sysu-saai.yaml --out results/sysu-saai --resume",
        text="`mixer-plugin list --configs` shows the configurations that come with the package, "
        "`mixer-plugin init` writes one for your data.",
    )
    command.add_argument("--resume", action="store_true", help="continue what --out holds")
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="check data, weights and options, and say what the run takes: hours, memory, disk",
    )
    add_run_arguments(command)
    add_output_arguments(command, quiet=True)


def add_run_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments that select a run, which ``report`` shares."""
    command.add_argument("--config", help="YAML file, or a packaged name such as demo")
    command.add_argument("--out", default="results/table3", help="result folder")
    command.add_argument("--paper", action="store_true", help="add e2e as eq. 16 reads literally")
    command.add_argument("--weights", help="of the trunk: imagenet, a file, or none (random)")


def chosen_config(options: argparse.Namespace) -> str:
    """The configuration that was given, or an error that says what to give."""
    if options.config is None:
        raise MixERValueError(
            "Give --config: a YAML file, or the name of one that comes with the package, such as "
            f"demo (minutes on a CPU). There are {', '.join(packaged_configs())}, and the paper's: "
            f"{', '.join(packaged_configs('paper/'))}. `mixer-plugin list --configs` explains them."
        )
    return str(options.config)


def run(options: argparse.Namespace) -> int:
    """Trains and evaluates a configuration's networks and prints what they show."""
    from mixer_plugin.benchmarks.dry_run import dry_run
    from mixer_plugin.benchmarks.table3 import configured, run_file

    if options.dry_run:
        config = configured(chosen_config(options), options.paper, options.weights)
        print(dry_run(config, Path(options.out)))
        return 0
    given = {name: getattr(options, name) for name in ("resume", "paper", "weights", "quiet")}
    text = run_file(chosen_config(options), options.out, **given)
    if text:  # of several processes, the first one has it
        print(text)
        page = Path(options.out) / "report.html"
        report = f"Report: {page}. " if page.is_file() else ""
        note(options, f"{report}Tables, pictures and run card: {options.out}")
    return 0
