"""``mixer-plugin``: the commands of the package."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from mixer_plugin import __version__
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.console import run_command

# A module of mixer_plugin.commands each, imported once its command is asked for.
COMMANDS = {
    "init": "write the configuration of an experiment of the paper, to be edited",
    "table3": "train and compare baseline, (f)+MixER and e2e+MixER",
    "bench": "a table or figure of the paper by its name",
    "report": "print the tables of what a table3 run has finished so far",
    "extract": "features of images: any model, a data set or images of your own",
    "convert": "the base's part of a checkpoint, or MixER's, in a file of its own",
    "evaluate": "evaluate stored features in mixed galleries",
    "probe": "what frozen features hold: modality, identity, factors",
    "search": "search a gallery of both modalities",
    "store": "make and change a gallery in a folder that others search meanwhile",
    "serve": "a store over HTTP, with a page to search by hand",
    "synth": "write a synthetic data set in a released layout",
    "doctor": "check a data set in its released layout",
    "arrays": "write a data set's training images as the .npy arrays of DDAG, DEEN and SGEIL",
    "check": "try the plug-in on your own checkout of a public codebase",
    "inspect": "look at any network and propose the adapter that attaches to it",
    "list": "list adapters and baselines",
}


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The argument parser; of the standard library, so that the package depends on no other.

    Args:
        command: The one whose arguments are needed; None: all of them.
    """
    root = argparse.ArgumentParser(prog="mixer-plugin", description=__doc__)
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        own = commands.add_parser(name, help=text, description=text)
        if command in (None, name):
            module = importlib.import_module(f"mixer_plugin.commands.{name}")
            module.add_arguments(own)
            own.set_defaults(run=module.run)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status, see :func:`run_command`."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = next((word for word in given if word in COMMANDS), "")

    def work() -> int:
        options = parser(command).parse_args(given)
        for name, value in vars(options).items():
            if value == "":  # as a path, it would be the folder that one happens to be in
                raise MixERValueError(f"{name} is empty; give a value, or leave it out.")
        return options.run(options)

    return run_command(f"mixer-plugin {command}".rstrip(), work)


if __name__ == "__main__":
    sys.exit(main())
