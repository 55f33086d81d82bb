"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.text_file import printable


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of ``path`` once it is whole.

    Where writing fails or is interrupted, ``path`` stays what it was and nothing else is left.

    Args:
        path: The file; its folder must be there.

    Yields:
        A file of bytes in the same folder.

    Raises:
        MixERValueError: The folder does not exist.
    """
    if not path.parent.is_dir():
        raise MixERValueError(f"{path.parent} is not a folder; create it before saving.")
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        # mkstemp makes a private file; give it the permissions that open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o666 & ~umask)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all; other bytes of file names as ``\\udcb8``."""
    with atomic_write(path) as file:
        file.write(printable(text).encode())


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Writes JSON and a line feed, whole or not at all."""
    write_text(path, json.dumps(value, indent=indent) + "\n")
