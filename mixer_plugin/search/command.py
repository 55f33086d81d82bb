"""``mixer-plugin search``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch

from mixer_plugin.errors import MixERValueError, closest
from mixer_plugin.features import FeatureSet
from mixer_plugin.search.files import is_index_file
from mixer_plugin.search.hits import format_rows
from mixer_plugin.search.index import MixedModalIndex
from mixer_plugin.search.recall import recall_report
from mixer_plugin.written_aside import written_aside

_KINDS = ("csv", "jsonl", "md")
_FIXED = ("rule", "factory", "calibration", "parameters")


def run_search(options: Namespace) -> int:
    """Builds or loads the index, searches it and prints or writes the hits.

    Args:
        options: What ``mixer-plugin search`` was given.

    Returns:
        0.

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
        with written_aside(out) as file:
            file.write(text.encode())
        print(f"{index}\n{len(query)} queries: {out}")
    if report is not None:
        print(f"\n{report.to_markdown()}")
    return 0


def _load(options: Namespace) -> MixedModalIndex:
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
    """The keys of each query itself: by path, or without paths by row."""
    if query.paths is not None and index.has_paths:
        return index.keys_of(query.paths)
    if len(query) != index.total:
        raise MixERValueError(
            f"--exclude-self finds a query in the gallery by its path, or, without paths, by its "
            f"row; there are {len(query)} queries and {index.total} images. Store paths in both."
        )
    return torch.arange(index.total)[:, None].tolist()
