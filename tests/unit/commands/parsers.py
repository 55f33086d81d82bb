"""Every command's parser, those of its actions included."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache

from mixer_plugin.cli import parser


@cache
def every_parser() -> dict[str, argparse.ArgumentParser]:
    """``evaluate``, ``store add`` … → its parser."""
    return dict(_below(parser()))


def _below(
    own: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    if name:
        yield name, own
    for action in own._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each, inner in action.choices.items():
                yield from _below(inner, f"{name} {each}".strip())


def arguments(name: str) -> list[argparse.Action]:
    """What a command takes, without its help and its actions."""
    found = every_parser()[name]._actions
    kinds = (argparse._HelpAction, argparse._SubParsersAction)
    return [a for a in found if not isinstance(a, kinds) and a.help != argparse.SUPPRESS]
