"""``mixer-plugin bench``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mixer_plugin.commands import advice_if_interrupted
from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments, note


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "table3",
        "table3 --scale full --data /data/SYSU-MM01 --dry-run",
        "b4 --seeds 0 1 2 --out results/bench",
        text="NAME: table1, table2a, table2b, table3, table4, table5, b1 to b5, figure4, figure5, "
        "figure-b1 or figure-b2. Names share their trained networks in --out, and the same command "
        "goes on after an interruption.",
    )
    add = command.add_argument
    add("name", metavar="NAME", help="table or figure of the paper")
    add(
        "--scale",
        default="mini",
        help="mini: small networks on generated persons, minutes on a CPU; full: the paper's",
    )
    add("--data", nargs="+", default=[], metavar="ROOT", help="folders of data sets, or of several")
    add("--out", default="results/bench", help="result folder of all names")
    add("--seeds", nargs="+", type=int, help="in place of the configuration's")
    add("--weights", help="of the trunks: imagenet, a file of a ResNet-50, or none (random)")
    add("--device", help="cpu (in float32) or cuda, in place of the configuration's")
    add_output_arguments(command, quiet=True)
    add(
        "--dry-run",
        action="store_true",
        help="check data, weights and options, and say what the run takes: hours, memory, disk",
    )


def run(options: argparse.Namespace) -> int:
    """Makes a table or figure of the paper, and prints it."""
    from mixer_plugin.benchmarks.bench import dry_run_bench, find_roots, run_bench
    from mixer_plugin.benchmarks.reproduce.networks import Bench

    bench = Bench(
        scale=options.scale,
        out=Path(options.out),
        roots=find_roots(options.data),
        weights=options.weights,
        seeds=None if options.seeds is None else tuple(options.seeds),
        device=options.device,
        quiet=options.quiet,
    )
    if options.dry_run:
        print(dry_run_bench(options.name, bench))
        return 0
    advice = f"Finished networks and checkpoints are in {options.out}; the same command goes on."
    with advice_if_interrupted(advice):
        done = run_bench(options.name, bench)
    print(done.terminal if sys.stdout.isatty() else done.markdown)
    report = f"Report: {done.page}. " if done.page else ""
    note(options, f"{report}Files: {done.folder}")
    return 0
