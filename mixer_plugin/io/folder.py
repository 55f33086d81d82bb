"""Folders, and the names of files in them."""

from __future__ import annotations

import os
import posixpath
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


def path_key(path: str) -> str:
    """A path in the form in which paths of one image are equal: no backslash, ``//`` or ``/./``."""
    return posixpath.normpath(path.replace("\\", "/"))


def find_repeated(paths: Sequence[str], *, links: bool = True) -> list[tuple[int, int]]:
    """Pairs of rows, the first one's and a later one's, whose paths lead to the same file.

    ``a/../a/x.jpg`` and ``a/x.jpg`` are one file. With ``links``, and if the first path exists,
    files are compared on disk, so that symbolic and hard links to one file are found, too.
    """
    here = links and bool(paths) and os.path.exists(paths[0])
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
    return path_key(path)
