"""Decodes image files; whatever is wrong with one, the error names it."""

from __future__ import annotations

import os
import stat
from typing import Any

from mixer_plugin.errors import MixERValueError

_MOST_PIXELS = 2**26  # refused before memory is used; a photograph has half as many
_SAMPLE_BITS = 258  # TIFF's tag of bits per channel
_AT_PNG_BITS = 24  # where the first chunk of a PNG, always its header, holds them
_EIGHT = ("JPEG", "MPO", "BMP", "DIB", "GIF", "WEBP")  # formats of 8 bits per channel at most


def read_image(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """An image file in RGB.

    Args:
        path: The file: JPEG, PNG, BMP, GIF, TIFF or WebP by its content, whatever its suffix.

    Returns:
        A loaded ``PIL.Image`` in RGB, and its mode in the file, such as ``L``.

    Raises:
        MixERValueError: It is damaged, too large, of another format, or has more than 8 bits per
            channel.
    """
    from PIL import Image

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for its writer
            raise ValueError("it is not a file")
        with Image.open(path) as file:
            width, height = file.size
            if width * height > _MOST_PIXELS:
                raise ValueError(f"{width} x {height} pixels are too many")
            bits, mode = _bits(file, path), file.mode
            if bits <= 8 and not mode.startswith(("I", "F")):
                return file.convert("RGB"), mode
    except Exception as error:  # decoders raise what they like on damaged files
        raise MixERValueError(
            f"{path} cannot be read as an image ({error}). Copy it again from the source."
        ) from error
    raise MixERValueError(
        f"{path} has {mode if mode[0] in 'IF' else f'{bits}-bit {mode}'} pixels; expected 8 bits "
        "per channel. Convert it: a cast to 8 bits would cut it off at 255."
    )


def _bits(file: Any, path: str | os.PathLike[str]) -> int:
    """Bits per channel of the file; Pillow reads 16 as 8 where it has no such mode."""
    if file.format == "PNG":
        with open(path, "rb") as content:
            return content.read(_AT_PNG_BITS + 1)[_AT_PNG_BITS]
    if file.format == "TIFF":
        return max(file.tag_v2.get(_SAMPLE_BITS, (1,)))
    if file.format not in _EIGHT:
        raise ValueError(f"it is {file.format}; expected JPEG, PNG, BMP, GIF, TIFF or WebP")
    return 8
