"""``mixer-plugin inspect``."""

from __future__ import annotations

import argparse

from mixer_plugin.commands.shared.arguments import size_of
from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "path/to/checkout --build nets.agw:build",
        "my_network:build --size 288x144",
        text="Exit code: 0 a line was found and tried; 4: no single line does, a class to fill in "
        "is printed; 3: the network could not be imported, built or called; 2: wrong arguments. "
        "Nothing is written into the folder, and nothing is fetched.",
    )
    command.add_argument(
        "target", help="folder of a checkout, with --build; or module:function from here"
    )
    command.add_argument(
        "--build",
        help="what makes the network in the checkout: module:function, or a call of it, "
        "'module:function(395, arch=\"resnet50\")'",
    )
    command.add_argument(
        "--size",
        metavar="HxW",
        help="of the images (default: the first usual size that the network takes)",
    )
    command.add_argument(
        "--classes", type=int, default=6, help="identities that the network is built for"
    )
    add_output_arguments(command, json=True)


def run(options: argparse.Namespace) -> int:
    """Proposes the adapter that attaches MixER to a network."""
    from mixer_plugin.conformance import run_inspect

    return run_inspect(
        options.target,
        build=options.build,
        size=size_of(options.size) if options.size else None,
        json=options.json,
        classes=options.classes,
    )
