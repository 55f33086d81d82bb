"""``mixer-plugin store``."""

from __future__ import annotations

import argparse
import csv
import io
import re
from pathlib import Path
from typing import Any

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.text_file import read_text
from mixer_plugin.search.filter_grammar import parse_time
from mixer_plugin.search.keys import text_key
from mixer_plugin.search.store import GalleryStore

_SETTINGS = ("rule", "factory", "calibration", "parameters", "segment")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = _action(actions, "add", _add, "add images; makes the store where there is none")
    add.add_argument("features", metavar="FEATURES", help="FeatureSet file (.npz)")
    add.add_argument(
        "--table",
        help="CSV file, a row per image: columns key and time, the others become the payload",
    )
    add.add_argument("--upsert", action="store_true", help="replace images of the same key")
    made = add.add_argument_group("of a new store, fixed from then on")
    made.add_argument("--rule", help="default: mixer, or erased without related features")
    made.add_argument("--factory", help="FAISS factory string, e.g. IVF1024,PQ64 (default: Flat)")
    made.add_argument("--parameters", help="FAISS search parameters, e.g. nprobe=16")
    made.add_argument("--calibration", help="center (default: none)")
    made.add_argument("--segment", type=int, help="images per segment (default: 65536)")
    remove = _action(actions, "remove", _remove, "remove images by their keys or by a filter")
    remove.add_argument("keys", nargs="*", metavar="KEY", help="a text, or else a whole number")
    remove.add_argument("--filter", help="e.g. 'time < 2026-01-01'")
    _action(actions, "compact", _compact, "drop what was removed, join the segments")
    info = _action(actions, "info", _info, "counts and settings")
    info.add_argument("--check", action="store_true", help="read every vector, name damaged ones")


def _action(actions: Any, name: str, run_action: Any, text: str) -> argparse.ArgumentParser:
    own: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    own.add_argument("store", metavar="STORE", help="the store's folder")
    own.set_defaults(run_action=run_action)
    return own


def run(options: argparse.Namespace) -> int:
    """Runs the action.

    Raises:
        MixERValueError: Options that contradict each other, the files or the store.
    """
    return options.run_action(options)


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
        print(f"Added {len(keys)} images: {len(store)} in {options.store}.")
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
        print(f"Removed {len(keys)} images: {len(store)} in {options.store}.")
    return 0


def _compact(options: argparse.Namespace) -> int:
    with GalleryStore(options.store) as store:
        before = store.stats()["bytes"]
        store.compact()
        print(f"{before:,} bytes before, {store.stats()['bytes']:,} now.")
    return 0


def _info(options: argparse.Namespace) -> int:
    with GalleryStore(options.store) as store:
        for name, value in store.stats().items():
            print(f"{name:15s} {'none' if value in (None, '') else value}")
        damaged = store.check() if options.check else []
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
