"""From image files to tensors: all at once into memory, or one by one as a data set."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mixer_plugin.data.items import ImageList
from mixer_plugin.data.transforms import Augmentation, normalise
from mixer_plugin.errors import MissingExtraError, MixERValueError

Resample = Literal["bilinear", "bicubic"]


def decode(
    images: ImageList,
    size: tuple[int, int],
    *,
    resample: Resample = "bilinear",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Reads all images into memory.

    Args:
        images: n images.
        size: Height and width in pixels; an image of this size is not resampled.
        resample: How others are resized.
        workers: Threads.
        progress: Called with (images read, images in all) after every 256 images.

    Returns:
        uint8 tensor [n, 3, height, width], RGB.

    Raises:
        MixERValueError: A file cannot be read (the message names it), or an argument is out of
            range.
        MissingExtraError: Pillow is not installed.
    """
    _check_size(size, resample)
    if workers < 1:
        raise MixERValueError(f"workers must be at least 1, got {workers}.")
    _require_pillow()
    pixels = torch.empty((len(images), 3, *size), dtype=torch.uint8)
    target = pixels.numpy()

    def read(start: int) -> int:
        paths = images.paths[start : start + 256]
        for row, path in enumerate(paths, start=start):
            target[row] = _read(path, size, resample).transpose(2, 0, 1)
        return len(paths)

    done = 0
    with ThreadPoolExecutor(workers) as pool:
        for count in pool.map(read, range(0, len(images), 256)):
            done += count
            if progress is not None:
                progress(done, len(images))
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
        resample: How images of another size are resized.

    Raises:
        MixERValueError: ``labels`` has another length, or an argument is out of range.
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
        _check_size(size, resample)
        _require_pillow()
        self.images = images
        self.size = size
        self.resample: Resample = resample
        self.labels: NDArray[np.int64] = (
            images.ids if labels is None else np.asarray(labels, dtype=np.int64)
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
        pixels = torch.from_numpy(_read(path, self.size, self.resample)).permute(2, 0, 1)
        return (
            self.transform(pixels.contiguous()),
            int(self.labels[index]),
            int(self.images.cams[index]),
            int(self.images.modality[index]),
            path,
        )


def _evaluation_transform(pixels: Tensor) -> Tensor:
    return normalise(pixels[None], Augmentation())[0]


def _check_size(size: tuple[int, int], resample: str) -> None:
    if len(size) != 2 or min(size) < 1:
        raise MixERValueError(f"size must be (height, width) in pixels, got {size!r}.")
    if resample not in ("bilinear", "bicubic"):
        raise MixERValueError(f"resample must be 'bilinear' or 'bicubic', got {resample!r}.")


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pillow", "bench", "Reading images") from error


def _read(path: str, size: tuple[int, int], resample: Resample) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise MixERValueError(
                    f"{path} has {file.mode} pixels; expected 8 bits per channel. "
                    "Convert it: a cast to 8 bits would cut it off at 255."
                )
            image = file.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow's errors for damaged files
        raise MixERValueError(
            f"{path} cannot be read as an image ({error}). Copy it again from the source."
        ) from error
    if image.size != (size[1], size[0]):
        method = Image.Resampling.BILINEAR if resample == "bilinear" else Image.Resampling.BICUBIC
        image = image.resize((size[1], size[0]), method)
    return np.array(image)  # a copy: torch wants memory that it may write to
