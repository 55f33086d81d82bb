"""``mixer-plugin store``."""

from __future__ import annotations

import argparse
from typing import Any

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "add gate monday.npz",
        "info gate",
        text="`mixer-plugin store ACTION --help` says what an action takes. `mixer-plugin search "
        "gate query.npz` searches the store.",
    )
    actions = command.add_subparsers(
        dest="action", required=True, metavar="ACTION", help="what to do"
    )
    own = _action(actions, "add", "add images; makes the store where there is none")
    describe(own, "gate monday.npz --table monday.csv", "gate day.npz --factory IVF1024,PQ64")
    add = own.add_argument
    add("features", help="FeatureSet file (.npz)")
    add("--table", help="CSV, a row per image: columns key, time; others are the payload")
    add("--upsert", action="store_true", help="replace images of the same key")
    add = own.add_argument_group("of a new store, fixed from then on").add_argument
    add("--rule", help="default: mixer, or erased without related features")
    add("--factory", help="FAISS factory string, e.g. IVF1024,PQ64 (default: Flat)")
    add("--parameters", help="FAISS search parameters, e.g. nprobe=16")
    add("--calibration", help="center (default: none)")
    add("--segment", type=int, help="images per segment (default: 65536)")
    own = _action(actions, "remove", "remove images by their keys or by a filter")
    describe(own, "gate 17 18", "gate --filter 'time < 2026-01-01'")
    own.add_argument("keys", nargs="*", metavar="KEY", help="a text, or else a whole number")
    own.add_argument("--filter", help="e.g. 'time < 2026-01-01'")
    own = _action(actions, "compact", "drop what was removed, join the segments")
    describe(own, "gate")
    own = _action(actions, "info", "counts and settings")
    describe(own, "gate --check", "gate --json")
    own.add_argument("--check", action="store_true", help="read every vector, name damaged ones")
    for own in actions.choices.values():
        add_output_arguments(own, json=True)


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    own: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    own.add_argument("store", help="the store's folder")
    return own


def run(options: argparse.Namespace) -> int:
    """Runs the action."""
    from mixer_plugin.commands.search.store.work import run_action

    return run_action(options)
