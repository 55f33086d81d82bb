"""``mixer-plugin convert``."""

from __future__ import annotations

import argparse

from mixer_plugin.commands.shared.help import describe


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "checkpoint.t",
        "checkpoint.t --base base.t",
        "cells/saai-cues-seed0/e2e.pt --mixer heads.pt --plain",
        text="Without --base and --mixer it only says what it found. A written part stands under "
        "the key that the checkpoint had it under, with its epoch and other numbers beside it.",
    )
    add = command.add_argument
    add("checkpoint", help="file of a training loop, or cells/JOB/CELL.pt of table3")
    add("--base", help="file to write: the base's weights, for a repository's own test script")
    add("--mixer", metavar="FILE", help="file to write: the mixer.* weights")
    add("--key", help="where the state dict stands (default: state_dict, net, model or state)")
    add("--under", help="key to write it under (default: as found)")
    add("--plain", action="store_true", help="write a plain state dict, under no key")
    add("--overwrite", action="store_true", help="replace files that are there")


def run(options: argparse.Namespace) -> int:
    """Says what a checkpoint holds and writes its parts."""
    from mixer_plugin.commands.attach.convert.work import run_convert

    return run_convert(options)
