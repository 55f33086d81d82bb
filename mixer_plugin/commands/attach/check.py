"""``mixer-plugin check``."""

from __future__ import annotations

import argparse

from mixer_plugin.commands.shared.arguments import size_of
from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "--adapter saai --checkout path/to/SAAI",
        "--adapter FILE.py:Mine --build nets:build --checkout path/to/mine --size 256x128",
        text="Exit code: 0 all invariants held; 11 to 18: 10 + the number of the first that broke, "
        "17 for a wrapper, too; 3: the network could not be imported, built or trained; 2: wrong "
        "arguments.",
    )
    command.add_argument(
        "--adapter",
        required=True,
        help="e.g. saai (see mixer-plugin list); with --build also 'GenericAdapter(…)' or "
        "FILE.py:NAME",
    )
    command.add_argument("--checkout", required=True, help="folder of the checkout")
    command.add_argument("--dataset", default="sysu", help="variant of the network")
    command.add_argument(
        "--wrappers",
        action="store_true",
        help="also take a step in accelerate, Lightning and others, and compare it",
    )
    command.add_argument(
        "--mixer", nargs="+", default=[], metavar="NAME=VALUE", help="options of MixERConfig"
    )
    command.add_argument(
        "--build", help="module:function of yours that makes the network, or a call of it"
    )
    command.add_argument(
        "--size",
        metavar="HxW",
        help="of the images (default: the adapter's trial size, else small)",
    )
    add_output_arguments(command, json=True)


def run(options: argparse.Namespace) -> int:
    """Tries every invariant of attaching on a checkout."""
    from mixer_plugin.conformance import run_check

    return run_check(
        options.adapter,
        options.checkout,
        dataset=options.dataset,
        build=options.build,
        wrappers=options.wrappers,
        mixer=options.mixer,
        size=size_of(options.size) if options.size else None,
        json=options.json,
    )
