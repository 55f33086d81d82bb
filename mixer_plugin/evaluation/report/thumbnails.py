"""Small pictures as ``data:`` addresses, within a number of bytes."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence

from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.image_file import read_image

MOST_BYTES = 18 * 2**20  # of all pictures and lists of a page
_SIZE = (64, 128)  # width, height
_QUALITY = 75


def thumbnails(paths: Sequence[str] | None, rows: Iterable[int], most: int) -> dict[int, str]:
    """Row → JPEG as a ``data:`` address, in the order given, for as long as there is room.

    Args:
        paths: Of the images; None: there are none.
        rows: Those wanted, the most wanted first.
        most: Characters of all addresses together.

    Returns:
        The pictures that could be read; none without Pillow.
    """
    try:
        from PIL import Image  # noqa: F401
    except ImportError:
        return {}
    found: dict[int, str] = {}
    room = most
    for row in dict.fromkeys(rows) if paths is not None else ():
        assert paths is not None
        if not os.path.isfile(paths[row]):
            continue
        try:
            content = small_jpeg(paths[row], _SIZE)
        except MixERValueError:  # a page is no check of images: its name stands in its place
            continue
        address = "data:image/jpeg;base64," + base64.b64encode(content).decode()
        room -= len(address)
        if room < 0:
            break
        found[row] = address
    return found


def small_jpeg(path: str, size: tuple[int, int]) -> bytes:
    """An image file as JPEG, at most (width, height) pixels; ``MixERValueError`` as read_image."""
    image, _ = read_image(path)
    image.thumbnail(size)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
