"""The list of commands, and the parser of what they take."""

from __future__ import annotations

import argparse
import importlib

from mixer_plugin import __version__
from mixer_plugin.commands.shared.help import CommandParser

# Folder of mixer_plugin.commands → its commands, a module each, imported once it is asked for.
GROUPS = {
    "train": {
        "init": "write the configuration of an experiment of the paper, to be edited",
        "table3": "train and compare baseline, (f)+MixER and e2e+MixER",
        "bench": "a table or figure of the paper by its name",
        "report": "print the tables of what a table3 run has finished so far",
    },
    "attach": {
        "inspect": "look at any network and propose the adapter that attaches to it",
        "check": "try the plug-in on your own checkout of a public codebase",
        "convert": "the base's part of a checkpoint, or MixER's, in a file of its own",
        "export": "a trained model for deployment: ONNX or torch.export",
        "list": "adapters, baselines, protocols and configurations",
    },
    "evaluate": {
        "extract": "features of images: any model, a data set or images of your own",
        "evaluate": "evaluate stored features in mixed galleries",
        "probe": "what frozen features hold: modality, identity, factors",
    },
    "search": {
        "search": "search a gallery of both modalities",
        "store": "make and change a gallery in a folder that others search meanwhile",
        "serve": "a store over HTTP, with a page to search by hand",
        "reduce": "features of fewer dimensions or bits, and what that costs",
    },
    "data": {
        "synth": "write a synthetic data set in a released layout",
        "doctor": "check a data set in its released layout",
        "arrays": "write training images as the .npy arrays of DDAG, DEEN and SGEIL",
    },
    "shell": {
        "completion": "a script that completes commands and options in bash or zsh",
    },
}
COMMANDS = {name: text for commands in GROUPS.values() for name, text in commands.items()}


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The argument parser; of the standard library, so that the package depends on no other.

    Args:
        command: The one whose arguments are needed; None: all of them.
    """
    groups = [[f"{group}:", *map(_line, names.items())] for group, names in GROUPS.items()]
    root = CommandParser(
        prog="mixer-plugin",
        usage="mixer-plugin COMMAND …",
        description="\n\n".join("\n".join(lines) for lines in groups),
        epilog="`mixer-plugin COMMAND --help` says what a command takes, with examples.",
    )
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS, prog=root.prog
    )
    for group, names in GROUPS.items():
        for name, text in names.items():
            own = commands.add_parser(name, description=text, help=text)
            if command in (None, name):
                module = importlib.import_module(f"mixer_plugin.commands.{group}.{name}")
                module.add_arguments(own)
                own.set_defaults(run=module.run)
    return root


def _line(command: tuple[str, str]) -> str:
    return f"  {command[0]:<10} {command[1]}"
