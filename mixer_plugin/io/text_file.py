"""Reads text, whatever editor wrote it; shows file names that are no text."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from mixer_plugin.errors import MixERValueError

_MARKS = {  # the longer first: UTF-16's mark begins UTF-32's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: str | os.PathLike[str], errors: str = "strict", *, wide: bool = True) -> str:
    r"""The text of a file: UTF-8, or what its byte order mark says, with ``\n`` line ends.

    Args:
        path: The file.
        errors: What to do with other bytes in UTF-8; ``surrogateescape`` keeps them, as Python
            keeps those of file names.
        wide: Whether the mark may be of UTF-16 or UTF-32.

    Raises:
        MixERValueError: It is not such text.
        OSError: It cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(4)
    coding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
    if not (wide or coding.startswith("utf-8")):
        raise MixERValueError(f"{path} cannot be read as text: it is {coding}. Save it as UTF-8.")
    try:
        text = Path(path).read_text(coding, errors if coding.startswith("utf-8") else "strict")
    except UnicodeError as error:
        raise MixERValueError(
            f"{path} cannot be read as text of {coding.removesuffix('-sig').upper()} "
            f"({error}). Save it as UTF-8."
        ) from error
    if "\0" in text:
        raise MixERValueError(
            f"{path} cannot be read as text (it has zero bytes). Save it as UTF-8."
        )
    return text


def read_lines(path: str | os.PathLike[str], errors: str = "strict") -> list[str]:
    """The lines of :func:`read_text` without their ends."""
    lines = read_text(path, errors).split("\n")
    return lines if lines[-1] else lines[:-1]


def printable(text: str) -> str:
    r"""A text that can be encoded: bytes of file names that are not UTF-8 become ``\udcb8``."""
    return text.encode("utf-8", "backslashreplace").decode()
