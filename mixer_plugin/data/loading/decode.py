"""From image files to tensors: all at once into memory, or one by one as a data set."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mixer_plugin.data.datasets.image_checks import open_image, require_pillow
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.loading.prefetch import prefetch
from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import Modality
from mixer_plugin.io.whole_number import whole_numbers

Resample = Literal["bilinear", "bicubic"]
_CHUNK = 256


def decode(
    images: ImageList,
    size: tuple[int, int],
    *,
    resample: Resample = "bilinear",
    workers: int = 1,
    shapes: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Reads all images into memory.

    Args:
        images: n images.
        size: Height and width in pixels; an image of this size is not resampled.
        resample: How others are resized, ``bilinear`` or ``bicubic``.
        workers: Threads.
        shapes: Whether the files are body shapes, which are grey for visible images, too.
        progress: Called with (images read, images in all) after every 256 images, in the caller's
            thread.

    Returns:
        uint8 tensor [n, 3, height, width], RGB.

    Raises:
        MixERValueError: A file cannot be read (the message names it), or an argument is out of
            range.
        MissingExtraError: Pillow is not installed.
    """
    check_reading(size, resample)
    pixels = torch.empty((len(images), 3, *size), dtype=torch.uint8)
    with closing(read_chunks(images, size, resample, workers, progress, shapes)) as chunks:
        for chunk, start in zip(chunks, range(0, len(images), _CHUNK), strict=True):
            pixels[start : start + len(chunk)] = torch.from_numpy(chunk)
    return pixels


class ImageDataset(Dataset[tuple[Any, int, int, int, str]]):
    """Images with label, camera and modality, for a ``DataLoader``.

    Item i is (image, label, camera, modality, path). The image is what ``transform`` makes of the
    uint8 tensor [3, height, width].

    Args:
        images: The images.
        size: Height and width in pixels.
        labels: One integer per image. Default: the identities, as evaluation needs them; for
            training give ``images.labels()[0]``.
        transform: Called with the uint8 tensor. Default: to [0, 1], minus mean, by standard
            deviation, with the default values of ``Augmentation``.
        resample: How images of another size are resized, ``bilinear`` or ``bicubic``.

    Raises:
        MixERTypeError: ``labels`` are not numbers.
        MixERValueError: ``labels`` has another length or is not whole, or an argument is out of
            range; when an item is read: its file cannot be (the message names it).
        MissingExtraError: Pillow is not installed.
    """

    def __init__(
        self,
        images: ImageList,
        size: tuple[int, int],
        labels: ArrayLike | None = None,
        transform: Callable[[Tensor], Any] | None = None,
        *,
        resample: Resample = "bilinear",
    ) -> None:
        check_reading(size, resample)
        self.images = images
        self.size = size
        self.resample: Resample = resample
        self.labels: NDArray[np.int64] = (
            images.ids if labels is None else whole_numbers(labels, "labels")
        )
        if self.labels.shape != (len(images),):
            raise MixERValueError(
                f"labels must have one entry per image, shape ({len(images)},); "
                f"got shape {self.labels.shape}."
            )
        self.transform = transform if transform is not None else _evaluation_transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int, int, int, str]:
        path = self.images.paths[index]
        modality = int(self.images.modality[index])
        pixels = torch.from_numpy(_read(path, modality, self.size, self.resample))
        return (
            self.transform(pixels.permute(2, 0, 1).contiguous()),
            int(self.labels[index]),
            int(self.images.cams[index]),
            modality,
            path,
        )


def _evaluation_transform(pixels: Tensor) -> Tensor:
    return normalise(pixels[None], Augmentation())[0]


def check_reading(size: tuple[int, int], resample: str = "bilinear") -> None:
    """Raises unless images can be read at this size: see :func:`decode`."""
    if len(size) != 2 or min(size) < 1:
        raise MixERValueError(f"size must be (height, width) in pixels, got {size!r}.")
    if resample not in ("bilinear", "bicubic"):
        raise MixERValueError(f"resample must be 'bilinear' or 'bicubic', got {resample!r}.")
    require_pillow("Reading images")


def read_chunks(
    images: ImageList,
    size: tuple[int, int],
    resample: Resample,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
    shapes: bool = False,
    *,
    starts: range | None = None,
) -> Generator[NDArray[np.uint8], None, None]:
    """Yields decoded images in order, uint8 [256 or fewer, 3, height, width] each; see ``decode``.

    ``progress`` is called once the caller is done with a chunk. ``starts`` are the first rows of
    the chunks, its step is their length. Close it.
    """
    starts = range(0, len(images), _CHUNK) if starts is None else starts

    def read(start: int) -> NDArray[np.uint8]:
        paths = images.paths[start : start + starts.step]
        chunk = np.empty((len(paths), 3, *size), dtype=np.uint8)
        for row, (path, kind) in enumerate(zip(paths, images.modality[start:], strict=False)):
            modality = Modality.INFRARED if shapes else int(kind)
            chunk[row] = _read(path, modality, size, resample).transpose(2, 0, 1)
        return chunk

    with closing(prefetch(read, starts, depth=2 * workers, workers=workers)) as chunks:
        for start, chunk in zip(starts, chunks, strict=True):
            yield chunk
            if progress is not None:
                progress(start + len(chunk), len(images))


def _read(path: str, modality: int, size: tuple[int, int], resample: Resample) -> NDArray[np.uint8]:
    from PIL import Image

    image = open_image(path, modality)
    if image.size != (size[1], size[0]):
        method = Image.Resampling.BILINEAR if resample == "bilinear" else Image.Resampling.BICUBIC
        image = image.resize((size[1], size[0]), method)
    return np.array(image)  # a copy: torch wants memory that it may write to
