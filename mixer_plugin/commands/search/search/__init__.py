"""``mixer-plugin search``."""

from __future__ import annotations

import argparse

from mixer_plugin.commands.shared.help import describe
from mixer_plugin.commands.shared.telling import add_output_arguments


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    describe(
        command,
        "gallery.npz query.npz -k 5",
        "gallery.npz query.npz --factory IVF64,Flat --save gallery.index --recall",
        "gate query.npz --filter 'camera in (1, 2)' --group id --json",
    )
    add = command.add_argument
    add("index", help="a store's folder, an index that --save wrote, or a FeatureSet file (.npz)")
    add("queries", help="FeatureSet file (.npz)")
    add("-k", type=int, default=10, help="hits per query")
    add("--settings", default="mix", help="one setting, e.g. cross or mix-cam")
    add("--exclude-self", action="store_true", help="no query finds itself")
    add("--out", help="file for all that is known of the hits: .csv, .json, .jsonl or .md")
    add_output_arguments(command, json=True, quiet=True)
    add = command.add_argument_group("of a store").add_argument
    add("--filter", help="e.g. 'camera in (1, 2) and modality == infrared'")
    add("--threshold", type=float, help="least score of a hit")
    add("--group", help="id or payload.NAME: the best hit of each")
    add = command.add_argument_group("of an index built from features").add_argument
    add("--rule", help="default: mixer, or erased without related features")
    add("--factory", help="FAISS factory string, e.g. IVF64,Flat (default: Flat)")
    add("--parameters", help="FAISS search parameters, e.g. nprobe=16")
    add("--calibration", help="center (default: none)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--save", metavar="FILE", help="file to write the index to")
    add("--recall", action="store_true", help="compare with an exact index")


def run(options: argparse.Namespace) -> int:
    """Searches and prints or writes the hits."""
    from mixer_plugin.commands.search.search.work import run_search

    return run_search(options)
