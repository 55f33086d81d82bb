"""Folders."""

from __future__ import annotations

from pathlib import Path

from mixer_plugin.errors import MixERValueError


def make_folder(path: str | Path) -> Path:
    """Makes a folder and those above it; ``MixERValueError`` if that is not possible."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MixERValueError(f"Cannot make the folder {folder}: {error.strerror}.") from error
    return folder
