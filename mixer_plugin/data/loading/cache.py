"""Decoded images on disk: read once as files, then mapped into memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.loading.decode import Resample, check_reading, read_chunks
from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.io.array_file import map_array
from mixer_plugin.io.atomic_write import atomic_write

_VERSION = 1  # of the file and of what is in it: raise it when decoding changes


def open_cache(
    images: ImageList,
    size: tuple[int, int],
    folder: str | os.PathLike[str],
    *,
    resample: Resample = "bilinear",
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Decoded images, mapped from a file that is written first where it is missing.

    The file is a ``.npy`` array followed by the fingerprint of what it was made from: the paths
    below the root, file sizes and times of the images, ``size`` and ``resample``. It is written
    aside and renamed; an interrupted writing starts again. A file that is cut off, or that holds
    something else, is written anew; those of other fingerprints are left alone.

    Pages are loaded when they are touched, and shared by all processes that open the same file.
    Changes to the tensor stay in this process and never reach the file.

    Args:
        images: n images.
        size: Height and width in pixels.
        folder: Where the file is or will be, n * 3 * height * width bytes; it is made if missing.
        resample: How images of another size are resized, ``bilinear`` or ``bicubic``.
        workers: Threads that decode.
        progress: Called with (images decoded, images in all) while the file is written.

    Returns:
        uint8 tensor [n, 3, height, width], RGB, as ``decode`` returns it.

    Raises:
        MixERValueError: An image is missing or cannot be read (the message names it), or an
            argument is out of range.
        MixERRuntimeError: The file cannot be written, or does not hold what was written.
        MissingExtraError: Pillow is not installed.
    """
    check_reading(size, resample)
    shape = (len(images), 3, *size)
    if not len(images):
        return torch.empty(shape, dtype=torch.uint8)
    mark = _fingerprint(images, size, resample)
    path = Path(folder) / f"images-{size[0]}x{size[1]}-{mark[:16]}.npy"
    pixels = _mapped(path, shape, mark)
    if pixels is None:
        with closing(read_chunks(images, size, resample, workers, progress)) as chunks:
            _write(path, shape, mark, chunks)
        pixels = _mapped(path, shape, mark)
    if pixels is None:
        raise MixERRuntimeError(
            f"{path} was written just now and is not what was written. Check the disk, and that "
            "nothing else writes to this folder."
        )
    return pixels


def _fingerprint(images: ImageList, size: tuple[int, int], resample: str) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, *size, resample]).encode())
    for path in images.paths:
        try:
            found = os.stat(path)
        except OSError as error:
            raise MixERValueError(
                f"{path} cannot be found ({error.strerror}). Copy it again from the source."
            ) from error
        name = Path(os.path.relpath(path, images.root)).as_posix()
        digest.update(json.dumps([name, found.st_size, found.st_mtime_ns]).encode())
    return digest.hexdigest()


def _mapped(path: Path, shape: tuple[int, ...], mark: str) -> Tensor | None:
    """The array in a file; None unless it is whole, of this shape and marked so."""
    try:
        array = map_array(path, "images", mode="c")
    except (OSError, MixERValueError):
        return None
    if not isinstance(array, np.memmap) or array.dtype != np.uint8 or array.shape != shape:
        return None
    with path.open("rb") as file:
        file.seek(array.offset + array.nbytes)
        if file.read() != mark.encode():
            return None
    return torch.from_numpy(array)


def _write(
    path: Path, shape: tuple[int, ...], mark: str, chunks: Iterable[NDArray[np.uint8]]
) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                # Written, not mapped: a full disk is then an error and not the end of the process.
                file.write(chunk.data)
            file.write(mark.encode())
    except OSError as error:
        raise MixERRuntimeError(
            f"The image cache cannot be written to {path.parent} ({error}). It needs "
            f"{math.prod(shape) / 1e9:.2f} GB there; free some space or name another folder."
        ) from error
