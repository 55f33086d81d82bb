"""The work of ``mixer-plugin store``."""

from __future__ import annotations

import argparse
import csv
import io
import re
from pathlib import Path
from typing import Any

from mixer_plugin.commands.shared.telling import show
from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.text_file import read_text
from mixer_plugin.search.filter_grammar import parse_time
from mixer_plugin.search.keys import text_key
from mixer_plugin.search.store import GalleryStore

_SETTINGS = ("rule", "factory", "calibration", "parameters", "segment")


def run_action(options: argparse.Namespace) -> int:
    """Runs an action.

    Raises:
        MixERValueError: Options that contradict each other, the files or the store.
    """
    work = {"add": _add, "remove": _remove, "compact": _compact, "info": _info}
    return work[options.action](options)


def _add(options: argparse.Namespace) -> int:
    features = FeatureSet.load(options.features)
    given = {name: getattr(options, name) for name in _SETTINGS}
    given = {name: value for name, value in given.items() if value is not None}
    extra = {} if options.table is None else _read_table(Path(options.table), len(features))
    with _opened(options.store, features, given) as store:
        for name, value in given.items():
            known = getattr(store.settings, name)
            if known != value:
                raise MixERValueError(
                    f"{options.store} has {name} {known!r}, fixed when it was made; leave out "
                    f"--{name}, or make another store."
                )
        keys = store.add(features, upsert=options.upsert, **extra)
        text = f"Added {len(keys)} images: {len(store)} in {options.store}."
        show(options, text, {"added": len(keys), "images": len(store)})
    return 0


def _opened(folder: str, features: FeatureSet, given: dict[str, Any]) -> GalleryStore:
    if GalleryStore.exists(folder):
        return GalleryStore(folder)
    rule = {} if features.related is not None else {"rule": "erased"}
    return GalleryStore.create(folder, **{**rule, **given})


def _remove(options: argparse.Namespace) -> int:
    if bool(options.keys) == (options.filter is not None):
        raise MixERValueError("Give either keys or --filter.")
    with GalleryStore(options.store) as store:
        if options.filter is not None:
            keys = store.keys(options.filter)
        else:
            keys = [key if key in store else text_key(key) for key in options.keys]
        store.remove(keys)
        text = f"Removed {len(keys)} images: {len(store)} in {options.store}."
        show(options, text, {"removed": len(keys), "images": len(store)})
    return 0


def _compact(options: argparse.Namespace) -> int:
    with GalleryStore(options.store) as store:
        before = store.stats()["bytes"]
        store.compact()
        now = store.stats()["bytes"]
    show(options, f"{before:,} bytes before, {now:,} now.", {"before": before, "bytes": now})
    return 0


def _info(options: argparse.Namespace) -> int:
    with GalleryStore(options.store) as store:
        stats = store.stats()
        lines = [f"{n:15s} {'none' if v in (None, '') else v}" for n, v in stats.items()]
        damaged = store.check() if options.check else []
        show(options, "\n".join(lines), stats | ({"damaged": damaged} if options.check else {}))
    if damaged:
        raise MixERValueError(
            f"{len(damaged)} vectors are damaged: {', '.join(map(repr, damaged[:10]))}"
            f"{', …' if len(damaged) > 10 else ''}. Remove the images or add them with --upsert."
        )
    return 0


def _read_table(path: Path, images: int) -> dict[str, Any]:
    """Keys, times and payloads of a CSV file, for ``GalleryStore.add``."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    rows = list(reader)
    if len(rows) != images:
        raise MixERValueError(f"{path} has {len(rows)} rows for {images} images; one each.")
    names = reader.fieldnames or []
    found: dict[str, Any] = {}
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise MixERValueError(f"{path}, line {number}: {len(names)} values were expected.")
    if "key" in names:
        found["keys"] = [text_key(row.pop("key")) for row in rows]
    if "time" in names:
        texts = [row.pop("time") for row in rows]
        found["times"] = [parse_time(text) if text else None for text in texts]
    if set(names) - {"key", "time"}:
        found["payloads"] = [{n: _value(v) for n, v in row.items() if v != ""} for row in rows]
    return found


def _value(text: str) -> Any:
    """A number, true or false where a text is one, else the text."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?(0|[1-9]\d*)\.\d+", text):
        return float(text)
    return text_key(text)
