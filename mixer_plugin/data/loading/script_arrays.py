"""Training arrays of the script family of codebases (DDAG, DEEN, SGEIL).

Their loaders read ``train_{rgb,ir}_resized_img.npy`` (uint8 [N, H, W, 3]) and
``train_{rgb,ir}_resized_label.npy`` from the data set's folder (``pre_process_sysu.py`` of
github.com/mangye16/Cross-Modal-Re-ID-baseline makes them for SYSU-MM01).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.datasets.findings import some
from mixer_plugin.data.datasets.image_checks import open_image
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.loading.decode import check_reading
from mixer_plugin.errors import MixERValueError, check_least
from mixer_plugin.io.array_file import map_array
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.io.whole_number import whole_numbers

_STEP = 256


@dataclass(frozen=True, kw_only=True)
class ScriptArrays:
    """Decoded training images of both modalities, mapped into memory.

    Attributes:
        visible: uint8 [Nv, H, W, 3], RGB.
        visible_labels: int64 [Nv], 0 to C - 1.
        infrared: uint8 [Ni, H, W, 3].
        infrared_labels: int64 [Ni], the same C labels.
    """

    visible: NDArray[np.uint8]
    visible_labels: NDArray[np.int64]
    infrared: NDArray[np.uint8]
    infrared_labels: NDArray[np.int64]


def write_script_arrays(
    images: ImageList,
    root: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the four files from any data set.

    Order, labels and resampling (Lanczos) are those of ``pre_process_sysu.py``: by identity,
    camera and file name; labels by ascending identity. The files appear once all are whole.

    Args:
        images: Training images, such as ``read_images(root, "train")``.
        root: Existing folder to write to.
        size: Height and width in pixels: 288 x 144 for DDAG and SGEIL, 384 x 144 for DEEN.
        workers: Threads that read images.
        progress: Called with (images written, images in all) after every 256 images or fewer.

    Raises:
        MixERValueError: ``root`` is no folder, an identity lacks a modality, an image cannot be
            used (the message names it), or an argument is out of range.
        MissingExtraError: Pillow is not installed.
    """
    check_reading(size)
    check_least("workers", workers)
    labels, _ = images.labels()
    _check_coverage("images", *(images.ids[images.modality == modality] for modality in (0, 1)))
    done = 0
    with ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
        for modality, paths in enumerate(array_paths(Path(root))):
            rows = in_array_order(images, modality)
            pixel_file, label_file = (stack.enter_context(atomic_write(path)) for path in paths)
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *size, 3)}
            np.lib.format.write_array_header_1_0(pixel_file, header)
            for start in range(0, len(rows), _STEP):
                chunk = [images.paths[row] for row in rows[start : start + _STEP]]
                for pixels in pool.map(lambda path, m=modality: resized(path, m, size), chunk):
                    pixel_file.write(pixels.tobytes())
                done += len(chunk)
                if progress is not None:
                    progress(done, len(images))
            np.save(label_file, labels[rows])


def read_script_arrays(root: str | os.PathLike[str]) -> ScriptArrays:
    """Maps the four files into memory and checks that they fit together.

    Args:
        root: Folder that holds them.

    Returns:
        The arrays; pixels are read from disk as they are used.

    Raises:
        MixERValueError: A file is missing, cut off, or of another kind or shape, or the two
            modalities do not have the same labels 0 to C - 1.
    """
    folder = Path(root).absolute()
    pixels, labels = [], []
    for pixel_path, label_path in array_paths(folder):
        images = _load(pixel_path, "images, uint8 [N, H, W, 3]")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise MixERValueError(
                f"{pixel_path} must be uint8 [N, H, W, 3], got {images.dtype} "
                f"{list(images.shape)}; write it again with write_script_arrays."
            )
        given = _load(label_path, "labels, one integer per image")
        if given.dtype.kind not in "iu" or given.shape != images.shape[:1]:
            raise MixERValueError(
                f"{label_path} must be integers of shape [{len(images)}], one per image of "
                f"{pixel_path.name}; got {given.dtype} {list(given.shape)}."
            )
        pixels.append(images)
        labels.append(whole_numbers(given, str(label_path)))
    if pixels[0].shape[1:3] != pixels[1].shape[1:3]:
        raise MixERValueError(
            f"{folder}: visible images are {pixels[0].shape[1:3]} and infrared ones "
            f"{pixels[1].shape[1:3]} (height, width); write both at one size."
        )
    _check_coverage(str(folder), *labels)
    known = np.unique(labels[0])
    if len(known) and (known != np.arange(len(known))).any():
        # Looked for among the first: a label may be as large as 2^62.
        first = np.arange(min(int(known.max()) + 1, len(known) + 5))
        lost = np.setdiff1d(first, known).tolist()
        raise MixERValueError(
            f"{folder}: labels must be 0 to C - 1 without gaps, got {known.min()} to "
            f"{known.max()}" + (f" without {some(lost)}." if lost else ".")
        )
    return ScriptArrays(
        visible=pixels[0], visible_labels=labels[0], infrared=pixels[1], infrared_labels=labels[1]
    )


def array_paths(folder: Path) -> list[tuple[Path, Path]]:
    """The files of images and labels, of visible and of infrared images."""
    names = [f"train_{side}_resized" for side in ("rgb", "ir")]
    return [(folder / f"{name}_img.npy", folder / f"{name}_label.npy") for name in names]


def in_array_order(images: ImageList, modality: int) -> list[int]:
    """Rows of one modality as ``pre_process_sysu.py`` orders them: identity, camera, file name."""
    rows = [row for row in range(len(images)) if images.modality[row] == modality]
    return sorted(rows, key=lambda row: (images.ids[row], images.cams[row], images.paths[row]))


def training_split(layout: str) -> str:
    """The split that the public scripts train on."""
    return "trainval" if layout == "sysu" else "train"


def resized(path: str, modality: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image [H, W, 3] of a size (height, width), by Lanczos' filter."""
    from PIL import Image

    image = open_image(path, modality)
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS))


def _load(path: Path, holds: str) -> NDArray:
    try:
        return map_array(path, "the array", "write it again with write_script_arrays")
    except FileNotFoundError as error:
        raise MixERValueError(
            f"{path} is missing. It should hold {holds}; write_script_arrays makes it."
        ) from error


def _check_coverage(where: str, visible: NDArray[np.int64], infrared: NDArray[np.int64]) -> None:
    alone = np.setxor1d(visible, infrared).tolist()
    if alone or not len(visible):
        which = f"{some(alone)} have one" if alone else "there is no image"
        raise MixERValueError(
            f"{where}: every identity needs visible and infrared images, but {which}."
        )
