"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.text_file import printable


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of ``path`` once it is whole.

    Where writing fails or is interrupted, ``path`` stays what it was and nothing else is left. A
    file that is replaced hands its permissions on.

    Args:
        path: The file, or a symbolic link to it, which stays; its folder must be there.

    Yields:
        A file of bytes in the same folder.

    Raises:
        MixERValueError: The folder does not exist, or ``path`` is there and is no file.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise MixERValueError(f"{path.parent} is not a folder; create it before saving.")
    if path.is_symlink() or (path.exists() and not path.is_file()):  # a circle of links, a device
        raise MixERValueError(f"{path} is not a file that can be replaced; give another name.")
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(aside, _permissions(path))
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def _permissions(path: Path) -> int:
    """Those of the file that is replaced, or that open() would give: mkstemp's file is private."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(path.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def write_text(path: Path, text: str) -> None:
    r"""Writes a text in UTF-8, whole or not at all; other bytes of file names as ``\udcb8``."""
    with atomic_write(path) as file:
        file.write(printable(text).encode())


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Writes JSON and a line feed, whole or not at all."""
    write_text(path, json.dumps(value, indent=indent) + "\n")
