"""``mixer-plugin search``."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mixer_plugin.errors import MixERValueError, closest
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.atomic_write import write_text
from mixer_plugin.io.folder import path_key
from mixer_plugin.search.files import is_index_file
from mixer_plugin.search.hits import Hits, format_rows, terminal_table
from mixer_plugin.search.index import MixedModalIndex
from mixer_plugin.search.recall import recall_report
from mixer_plugin.search.store import GalleryStore, StoreHits

_KINDS = ("csv", "json", "jsonl", "md")
_FIXED = ("rule", "factory", "calibration", "parameters")
_OF_STORES = ("filter", "threshold", "group")
_NARROWEST = 60


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    command.add_argument(
        "index",
        metavar="INDEX",
        help="a store's folder, an index that --save wrote, or a FeatureSet file (.npz)",
    )
    command.add_argument("queries", metavar="QUERIES", help="FeatureSet file (.npz)")
    command.add_argument("-k", type=int, default=10, help="hits per query (default 10)")
    command.add_argument("--settings", default="mix", help="one, e.g. mix-cam (default: mix)")
    command.add_argument("--exclude-self", action="store_true", help="no query finds itself")
    command.add_argument(
        "--out", help="file for all that is known of the hits: .csv, .json, .jsonl"
    )
    stores = command.add_argument_group("of a store")
    stores.add_argument("--filter", help="e.g. 'camera in (1, 2) and modality == infrared'")
    stores.add_argument("--threshold", type=float, help="least score of a hit")
    stores.add_argument("--group", help="id or payload.NAME: the best hit of each")
    built = command.add_argument_group("of an index built from features")
    built.add_argument("--rule", help="default: mixer, or erased without related features")
    built.add_argument("--factory", help="FAISS factory string, e.g. IVF64,Flat (default: Flat)")
    built.add_argument("--parameters", help="FAISS search parameters, e.g. nprobe=16")
    built.add_argument("--calibration", help="center (default: none)")
    built.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    built.add_argument("--save", help="file to write the index to")
    built.add_argument("--recall", action="store_true", help="compare with an exact index")


def run(options: argparse.Namespace) -> int:
    """Opens, loads or builds the index, searches it and prints or writes the hits.

    Raises:
        MixERValueError: Options that contradict each other or the files.
    """
    out = None if options.out is None else Path(options.out)
    kind = "" if out is None else out.suffix[1:]
    if out is not None and kind not in _KINDS:
        raise MixERValueError(
            f"--out takes a name on .csv, .json, .jsonl or .md.{closest(kind, _KINDS)}"
        )
    query = FeatureSet.load(options.queries)
    work = _search_store if Path(options.index).is_dir() else _search_index
    hits, about, notes = work(options, query)
    rows = hits.rows(query)
    if out is not None:
        write_text(out, format_rows(rows, kind))
        print(f"{about}\n{len(query)} queries: {out}")
    elif rows:
        width = max(_NARROWEST, shutil.get_terminal_size((80, 24)).columns)
        print(terminal_table(rows, width), end="")
    else:
        print("No hits.")
    if notes:
        print(f"\n{notes}")
    return 0


def _search_store(options: argparse.Namespace, query: FeatureSet) -> tuple[StoreHits, str, str]:
    for name in (*_FIXED, "save", "recall"):
        if getattr(options, name):
            raise MixERValueError(
                f"--{name} is for an index built from features; {options.index} is a store."
            )
    with GalleryStore(options.index) as store:
        exclude = None
        if options.exclude_self:
            if query.paths is None:
                raise MixERValueError("--exclude-self needs queries with paths; store paths in it.")
            exclude = [[path_key(path)] for path in query.paths]
            _check_found(query.paths, [[k for k in keys if k in store] for keys in exclude])
        hits = store.search(
            query,
            options.k,
            filter=options.filter,
            exclude=exclude,
            setting=options.settings,
            threshold=options.threshold,
            group_by=options.group,
        )
        return hits, f"{store!r}: {len(store)} images", ""


def _search_index(options: argparse.Namespace, query: FeatureSet) -> tuple[Hits, str, str]:
    for name in _OF_STORES:
        if getattr(options, name) is not None:
            raise MixERValueError(
                f"--{name} needs a store; make one with: mixer-plugin store add STORE FEATURES"
            )
    notes = ""
    if is_index_file(Path(options.index)):
        index = _load(options)
    else:
        gallery = FeatureSet.load(options.index)
        built = {name: getattr(options, name) for name in _FIXED if getattr(options, name)}
        if gallery.related is None:
            if "rule" not in built and query.related is not None:
                _note(f"{options.index} has no related features: rule erased.")
            built.setdefault("rule", "erased")
        index = MixedModalIndex.build(gallery, device=options.device, **built)
        if options.recall:
            exact = {**built, "factory": "Flat", "parameters": ""}
            flat = MixedModalIndex.build(gallery, device=options.device, **exact)
            notes = recall_report(index, query, flat).to_markdown()
    exclude = _same_images(index, query) if options.exclude_self else None
    hits = index.search(query, options.k, exclude=exclude, setting=options.settings)
    if options.save:
        index.save(options.save)
    return hits, str(index), notes


def _load(options: argparse.Namespace) -> MixedModalIndex:
    given = [name for name in _FIXED if getattr(options, name)]
    if given:
        raise MixERValueError(
            f"--{given[0]} is fixed in the saved index {options.index}; leave it out, or give "
            "the gallery's features."
        )
    if options.recall:
        raise MixERValueError(
            f"--recall compares with an exact index, which needs the gallery's features; "
            f"{options.index} is a saved index."
        )
    return MixedModalIndex.load(options.index, device=options.device)


def _same_images(index: MixedModalIndex, query: FeatureSet) -> list[list[int]]:
    """The keys under which each query is in the index: by path, or by row without paths."""
    if query.paths is not None and index.has_paths:
        found = index.keys_of(query.paths)
        _check_found(query.paths, found)
        return found
    if len(query) != index.total or not index.has_labels(query):
        raise MixERValueError(
            f"--exclude-self finds a query in the gallery by its path, or, without paths, by its "
            f"row; there are {len(query)} queries and {index.total} images"
            + (" of other labels" if len(query) == index.total else "")
            + ". Store paths in both."
        )
    return [[row] for row in range(index.total)]


def _check_found(paths: Sequence[str], found: Sequence[Sequence[object]]) -> None:
    """Raises if no query is in the gallery by its path; notes if some are not."""
    absent = [path for path, keys in zip(paths, found, strict=True) if not keys]
    if len(absent) == len(paths):
        raise MixERValueError(
            "--exclude-self finds no query in the gallery by its path, such as "
            f"{absent[0] if absent else 'none'!r}; extract both with the same folder in front "
            "of their paths, or leave it out where no query is in the gallery."
        )
    if absent:
        _note(
            f"--exclude-self: {len(absent)} of {len(paths)} queries are not in the gallery by "
            f"their paths, such as {absent[0]!r}."
        )


def _note(text: str) -> None:
    print(f"mixer-plugin search: {text}", file=sys.stderr)
