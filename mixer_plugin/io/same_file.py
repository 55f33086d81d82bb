"""Tells whether two paths lead to one file."""

from __future__ import annotations

import os
from collections.abc import Sequence


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
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            pass
        else:
            return found.st_dev, found.st_ino
    return os.path.normpath(path.replace("\\", "/"))
