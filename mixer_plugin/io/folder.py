"""Folders, and the names of files in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mixer_plugin.errors import MixERValueError

_LITTER = ("__macosx", "thumbs.db", "desktop.ini")


def is_litter(name: str) -> bool:
    """Whether a name is what a system leaves in folders: hidden, as ``._a.jpg``, or known."""
    return name.startswith(".") or name.lower() in _LITTER


def make_folder(path: str | Path) -> Path:
    """Makes a folder and those above it; ``MixERValueError`` if that is not possible."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MixERValueError(f"Cannot make the folder {folder}: {error.strerror}.") from error
    return folder


def find_repeated(paths: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of rows, the first one's and a later one's, whose paths lead to the same file.

    Links of both kinds and ways around, such as ``a/../a/x.jpg``, are seen through; of files that
    are not there, paths are compared. Where the first file is not there, none is looked for.
    """
    here = bool(paths) and os.path.exists(paths[0])
    first: dict[object, int] = {}
    pairs = []
    for row, path in enumerate(paths):
        earlier = first.setdefault(_identity(path, here), row)
        if earlier != row:
            pairs.append((earlier, row))
    return pairs


def _identity(path: str, here: bool) -> object:
    if here:
        with suppress(OSError, ValueError):
            found = os.stat(path)
            return found.st_dev, found.st_ino
    if "./" in path or "//" in path or "\\" in path:
        return os.path.normpath(path.replace("\\", "/"))
    return path
