"""The work of ``mixer-plugin search``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixer_plugin.commands.shared.telling import columns, for_people, note, show
from mixer_plugin.errors import MixERValueError, closest
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.atomic_write import write_text
from mixer_plugin.io.folder import path_key
from mixer_plugin.search.files import is_index_file
from mixer_plugin.search.hits import Hits, format_rows, terminal_table
from mixer_plugin.search.index import MixedModalIndex
from mixer_plugin.search.recall import RecallReport, recall_report
from mixer_plugin.search.store import GalleryStore, StoreHits

_KINDS = ("csv", "json", "jsonl", "md")
_FIXED = ("rule", "factory", "calibration", "parameters")
_OF_STORES = ("filter", "threshold", "group")


def run_search(options: argparse.Namespace) -> int:
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
    hits, about, recall = work(options, query)
    rows = hits.rows(query)
    if out is not None:
        write_text(out, format_rows(rows, kind))
    texts = [_told(options, about, len(query), rows)]
    texts += [] if recall is None else [for_people(recall.to_markdown())]
    found: dict[str, Any] = {"gallery": about, "queries": len(query), "hits": rows}
    if options.recall:
        found["recall"] = None if recall is None else asdict(recall)
    show(options, "\n\n".join(texts), found)
    return 0


def _told(options: argparse.Namespace, about: str, queries: int, rows: list[Any]) -> str:
    if options.out is not None:
        return f"{about}\n{queries} queries: {options.out}"
    if not rows:
        return "No hits."
    return terminal_table(rows, columns()).rstrip("\n")


def _search_store(options: argparse.Namespace, query: FeatureSet) -> tuple[StoreHits, str, None]:
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
            _check_found(
                options, query.paths, [[k for k in keys if k in store] for keys in exclude]
            )
        hits = store.search(
            query,
            options.k,
            filter=options.filter,
            exclude=exclude,
            setting=options.settings,
            threshold=options.threshold,
            group_by=options.group,
        )
        return hits, f"{store!r}: {len(store)} images", None


def _search_index(
    options: argparse.Namespace, query: FeatureSet
) -> tuple[Hits, str, RecallReport | None]:
    for name in _OF_STORES:
        if getattr(options, name) is not None:
            raise MixERValueError(
                f"--{name} needs a store; make one with: mixer-plugin store add STORE FEATURES"
            )
    recall = None
    if is_index_file(Path(options.index)):
        index = _load(options)
    else:
        gallery = FeatureSet.load(options.index)
        built = {name: getattr(options, name) for name in _FIXED if getattr(options, name)}
        if gallery.related is None:
            if "rule" not in built and query.related is not None:
                _note(options, f"{options.index} has no related features: rule erased.")
            built.setdefault("rule", "erased")
        index = MixedModalIndex.build(gallery, device=options.device, **built)
        if options.recall:
            exact = {**built, "factory": "Flat", "parameters": ""}
            flat = MixedModalIndex.build(gallery, device=options.device, **exact)
            recall = recall_report(index, query, flat)
    exclude = _same_images(options, index, query) if options.exclude_self else None
    hits = index.search(query, options.k, exclude=exclude, setting=options.settings)
    if options.save:
        index.save(options.save)
    return hits, str(index), recall


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


def _same_images(
    options: argparse.Namespace, index: MixedModalIndex, query: FeatureSet
) -> list[list[int]]:
    """The keys under which each query is in the index: by path, or by row without paths."""
    if query.paths is not None and index.has_paths:
        found = index.keys_of(query.paths)
        _check_found(options, query.paths, found)
        return found
    if len(query) != index.total or not index.has_labels(query):
        raise MixERValueError(
            f"--exclude-self finds a query in the gallery by its path, or, without paths, by its "
            f"row; there are {len(query)} queries and {index.total} images"
            + (" of other labels" if len(query) == index.total else "")
            + ". Store paths in both."
        )
    return [[row] for row in range(index.total)]


def _check_found(
    options: argparse.Namespace, paths: Sequence[str], found: Sequence[Sequence[object]]
) -> None:
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
            options,
            f"--exclude-self: {len(absent)} of {len(paths)} queries are not in the gallery by "
            f"their paths, such as {absent[0]!r}.",
        )


def _note(options: argparse.Namespace, text: str) -> None:
    note(options, f"mixer-plugin search: {text}")
