"""``mixer-plugin list``."""

from __future__ import annotations

import argparse


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""


def run(options: argparse.Namespace) -> int:
    """Prints the names of adapters and baselines."""
    from mixer_plugin.adapters import list_adapters
    from mixer_plugin.baselines import list_baselines

    print("adapters: ", ", ".join(list_adapters()))
    print("baselines:", ", ".join(list_baselines()))
    return 0
