"""``mixer-plugin search``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mixer_plugin.errors import MixERValueError, closest
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.atomic_write import write_text
from mixer_plugin.search.files import is_index_file
from mixer_plugin.search.hits import format_rows
from mixer_plugin.search.index import MixedModalIndex
from mixer_plugin.search.recall import recall_report

_KINDS = ("csv", "jsonl", "md")
_FIXED = ("rule", "factory", "calibration", "parameters")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.add_argument("gallery", help="FeatureSet file (.npz), or an index that --save wrote")
    command.add_argument("queries", help="FeatureSet file (.npz)")
    command.add_argument("-k", type=int, default=10, help="hits per query (default 10)")
    command.add_argument("--rule", help="default: mixer, or erased without related features")
    command.add_argument("--factory", help="FAISS factory string, e.g. IVF64,Flat (default: Flat)")
    command.add_argument("--parameters", help="FAISS search parameters, e.g. nprobe=16")
    command.add_argument("--calibration", help="center (default: none)")
    command.add_argument("--setting", default="mix", help="e.g. mix-cam, cross (default: mix)")
    command.add_argument("--exclude-self", action="store_true", help="a query does not find itself")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    command.add_argument("--save", help="file to write the index to")
    command.add_argument("--recall", action="store_true", help="compare with an exact index")
    command.add_argument("--out", help="file for the hits: .csv, .jsonl or .md (default: print)")


def run(options: argparse.Namespace) -> int:
    """Builds or loads the index, searches it and prints or writes the hits.

    Raises:
        MixERValueError: Options that contradict each other or the files.
    """
    out = None if options.out is None else Path(options.out)
    kind = "md" if out is None else out.suffix[1:]
    if kind not in _KINDS:
        raise MixERValueError(f"--out takes a name on .csv, .jsonl or .md.{closest(kind, _KINDS)}")
    query = FeatureSet.load(options.queries)
    report = None
    if is_index_file(Path(options.gallery)):
        index = _load(options)
    else:
        gallery = FeatureSet.load(options.gallery)
        built = {name: getattr(options, name) for name in _FIXED if getattr(options, name)}
        if gallery.related is None:
            if "rule" not in built and query.related is not None:
                _note(f"{options.gallery} has no related features: rule erased.")
            built.setdefault("rule", "erased")
        index = MixedModalIndex.build(gallery, device=options.device, **built)
        if options.recall:
            exact = {**built, "factory": "Flat", "parameters": ""}
            flat = MixedModalIndex.build(gallery, device=options.device, **exact)
            report = recall_report(index, query, flat)
    exclude = _same_images(index, query) if options.exclude_self else None
    hits = index.search(query, options.k, exclude=exclude, setting=options.setting)
    text = format_rows(hits.rows(query), kind)
    if options.save:
        index.save(options.save)
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
        print(f"{index}\n{len(query)} queries: {out}")
    if report is not None:
        print(f"\n{report.to_markdown()}")
    return 0


def _load(options: argparse.Namespace) -> MixedModalIndex:
    given = [name for name in _FIXED if getattr(options, name)]
    if given:
        raise MixERValueError(
            f"--{given[0]} is fixed in the saved index {options.gallery}; leave it out, or give "
            "the gallery's features."
        )
    if options.recall:
        raise MixERValueError(
            f"--recall compares with an exact index, which needs the gallery's features; "
            f"{options.gallery} is a saved index."
        )
    return MixedModalIndex.load(options.gallery, device=options.device)


def _same_images(index: MixedModalIndex, query: FeatureSet) -> list[list[int]]:
    """The keys under which each query is in the index: by path, or by row without paths."""
    if query.paths is not None and index.has_paths:
        found = index.keys_of(query.paths)
        absent = [path for path, keys in zip(query.paths, found, strict=True) if not keys]
        if len(absent) == len(query):
            raise MixERValueError(
                "--exclude-self finds no query in the gallery by its path, such as "
                f"{absent[0] if absent else 'none'!r}; extract both with the same folder in front "
                "of their paths, or leave it out where no query is in the gallery."
            )
        if absent:
            _note(
                f"--exclude-self: {len(absent)} of {len(query)} queries are not in the gallery by "
                f"their paths, such as {absent[0]!r}."
            )
        return found
    if len(query) != index.total or not index.has_labels(query):
        raise MixERValueError(
            f"--exclude-self finds a query in the gallery by its path, or, without paths, by its "
            f"row; there are {len(query)} queries and {index.total} images"
            + (" of other labels" if len(query) == index.total else "")
            + ". Store paths in both."
        )
    return [[row] for row in range(index.total)]


def _note(text: str) -> None:
    print(f"mixer-plugin search: {text}", file=sys.stderr)
