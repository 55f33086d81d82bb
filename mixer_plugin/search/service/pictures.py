"""Small pictures of images that may be shown."""

from __future__ import annotations

import os
from pathlib import Path

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.report.thumbnails import small_jpeg
from mixer_plugin.search.service.refusals import Refused

_SIZE = (128, 256)  # width, height


def picture(path: str | None, folder: Path) -> bytes:
    """A small JPEG of an image below a folder, links followed.

    Raises:
        Refused: 404: there is no such image, it lies elsewhere, or it cannot be read.
    """
    if path is not None and "\0" not in path:
        real, root = os.path.realpath(path), os.path.realpath(folder)
        if os.path.commonpath([real, root]) == root and os.path.isfile(real):
            try:
                return small_jpeg(real, _SIZE)
            except MixERValueError as error:
                raise Refused(404, "The file of this image cannot be read.") from error
    raise Refused(404, "This image has no file below the folder of --pictures.")
