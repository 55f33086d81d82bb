"""Folders."""

from __future__ import annotations

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
