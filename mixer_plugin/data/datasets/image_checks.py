"""Checks that need pixels: damaged files, 16 bits, missing colour, swapped modalities, duplicates.

One set of words for the doctor, which opens every file, for readers, which open a few per camera,
and for whatever decodes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.datasets.findings import Finding, fault_of, raise_errors, some
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.errors import MissingExtraError, MixERValueError, check_least
from mixer_plugin.features import Modality
from mixer_plugin.io.folder import find_repeated
from mixer_plugin.io.image_file import read_image

# Mean over an image of (largest - smallest channel), of 255. Grey images stored as JPEG in colour
# stay below 1, pictures in daylight lie at 15 and more; between the two nothing is concluded.
_GREY, _COLOURED = 1.0, 8.0
_NEARLY_ALL = 0.95
_FEW = 3  # fewer images of a camera say nothing about it
_PROBED = 8
_STEP = 256


class _Seen(NamedTuple):
    """One checked file: its fault, its colour (NaN with a fault) and its hash."""

    fault: Finding | None
    chroma: float
    key: bytes


def open_image(path: str | Path, modality: int) -> Any:
    """Opens an image file for training or evaluation.

    Args:
        path: The file.
        modality: 0 visible, 1 infrared.

    Returns:
        A loaded ``PIL.Image`` in RGB.

    Raises:
        MixERValueError: It is damaged, too large, of another format, has more than 8 bits per
            channel, or is a greyscale file although visible.
        MissingExtraError: Pillow is not installed.
    """
    require_pillow("Reading images")
    image, fault = _load(path, modality)
    raise_errors([fault] if fault else [])
    return image


def require_pillow(purpose: str) -> None:
    """Raises ``MissingExtraError`` where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pillow", "demo", purpose) from error


def check_names(splits: Sequence[ImageList]) -> list[Finding]:
    """An error where two paths lead to one file, through links or otherwise."""
    paths = list(dict.fromkeys(path for images in splits for path in images.paths))
    twice = [f"{paths[row]} is {paths[first]}" for first, row in find_repeated(paths)]
    if not twice:
        return []
    fix = "An image counts once: keep one name of each."
    return [Finding("error", f"The same file under several names: {some(twice)}.", fix)]


def check_colours(images: ImageList) -> list[Finding]:
    """Opens a few images of each camera: are visible ones coloured and infrared ones grey?

    Args:
        images: The images.

    Returns:
        An error for every camera whose images are of the other modality; none where Pillow is not
        installed, or where a file cannot be read (decoding names it).
    """
    try:
        require_pillow("Reading images")
    except MissingExtraError:
        return []
    findings = []
    for (folder, modality, cam), rows in _cameras(images).items():
        places = np.linspace(0, len(rows) - 1, min(_PROBED, len(rows))).astype(np.int64)
        chroma = [_inspect(images.paths[rows[place]], modality).chroma for place in places]
        findings += _judge(folder, modality, cam, chroma, share=1.0)
    return findings


def check_files(
    splits: Sequence[ImageList],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Opens every image.

    Args:
        splits: The images by split; a file in several is opened once.
        workers: Threads.
        progress: Called with (images read, images in all) after every 256 images.

    Returns:
        Damaged files, 16-bit files, greyscale visible files, cameras of the other modality, and
        files of the same bytes: under two identities an error (unknown persons, numbered 0 and
        below, apart), under one a warning.

    Raises:
        MixERValueError: ``workers`` is less than 1.
        MissingExtraError: Pillow is not installed.
    """
    require_pillow("Checking images")
    check_least("workers", workers)
    ids: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for images in splits:
        ids.update(zip(images.paths, images.ids.tolist(), strict=True))
        kinds.update(zip(images.paths, images.modality.tolist(), strict=True))
    paths = list(ids)

    def inspect(start: int) -> list[_Seen]:
        return [_inspect(path, kinds[path]) for path in paths[start : start + _STEP]]

    seen: dict[str, _Seen] = {}
    with ThreadPoolExecutor(workers) as pool:
        for results in pool.map(inspect, range(0, len(paths), _STEP)):
            seen.update(zip(paths[len(seen) :], results))  # noqa: B905 (all that are left)
            if progress is not None:
                progress(len(seen), len(paths))
    findings = [one.fault for one in seen.values() if one.fault is not None]
    for images in splits:
        for (folder, modality, cam), rows in _cameras(images).items():
            chroma = [seen[images.paths[row]].chroma for row in rows]
            findings += _judge(folder, modality, cam, chroma, share=_NEARLY_ALL)
    owners: dict[bytes, list[str]] = {}
    for path, one in seen.items():
        if ids[path] > 0:
            owners.setdefault(one.key, []).append(path)
    copies = []
    for same in owners.values():
        if len({ids[path] for path in same}) > 1:
            what = f"The same file under several identities: {some(same)}."
            findings.append(Finding("error", what, "Keep it under the right identity only."))
        elif len(same) > 1:
            copies.append(" = ".join(same))
    if copies:
        what = f"The same image several times, byte by byte: {some(copies)}."
        findings.append(Finding("warning", what, "Each copy counts as an image: keep one."))
    return findings


def told_by_pixels(
    paths: Sequence[str],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Tells the modality of images by their pixels: grey ones are infrared.

    Args:
        paths: n image files.
        workers: Threads.
        progress: Called with (images read, images in all) after every 256 images.

    Returns:
        int64 [n], 0 visible, 1 infrared; and bool [n], whether an image lies between grey and
        coloured: a picture of grey things, or one at night.

    Raises:
        MixERValueError: A file cannot be read, or ``workers`` is less than 1.
        MissingExtraError: Pillow is not installed.
    """
    require_pillow("Reading images")
    check_least("workers", workers)
    chroma = np.empty(len(paths))

    def look(start: int) -> int:
        for row in range(start, min(start + _STEP, len(paths))):
            chroma[row] = _chroma(read_image(paths[row])[0])
        return min(start + _STEP, len(paths))

    with ThreadPoolExecutor(workers) as pool:
        for done in pool.map(look, range(0, len(paths), _STEP)):
            if progress is not None:
                progress(done, len(paths))
    infrared = chroma < np.sqrt(_GREY * _COLOURED)
    return infrared.astype(np.int64), (chroma >= _GREY) & (chroma <= _COLOURED)


def _chroma(image: Any) -> float:
    """Mean over an RGB image of largest minus smallest channel, of 255."""
    pixels = np.asarray(image).astype(np.int16)
    return float((pixels.max(axis=2) - pixels.min(axis=2)).mean())


def _cameras(images: ImageList) -> dict[tuple[Path, int, int], list[int]]:
    """Rows by folder in the root, modality and camera."""
    groups: dict[tuple[Path, int, int], list[int]] = {}
    labels = zip(images.paths, images.modality.tolist(), images.cams.tolist(), strict=True)
    start = len(str(images.root)) + 1
    for row, (path, modality, cam) in enumerate(labels):
        folder = images.root / path[start:].replace(os.sep, "/").split("/", 1)[0]
        groups.setdefault((folder, modality, cam), []).append(row)
    return groups


def _judge(
    folder: Path, modality: int, cam: int, chroma: list[float], share: float
) -> list[Finding]:
    known = np.asarray([value for value in chroma if not np.isnan(value)])
    if len(known) < _FEW:
        return []
    infrared = modality == Modality.INFRARED
    if (known > _COLOURED if infrared else known < _GREY).mean() < share:
        return []
    look = f"infrared camera {cam} are coloured" if infrared else f"visible camera {cam} are grey"
    fix = "Visible images are coloured and infrared ones grey: the modalities seem swapped."
    return [Finding("error", f"{folder}: nearly all images of {look}.", fix)]


def _inspect(path: str, modality: int) -> _Seen:
    # A damaged file gets its path's hash: two empty files are two faults, not copies.
    key = hashlib.blake2b(os.fsencode(path), digest_size=16).digest()
    image, fault = _load(path, modality)
    if image is None:
        return _Seen(fault, np.nan, key)
    content = Path(path).read_bytes()
    return _Seen(fault, _chroma(image), hashlib.blake2b(content, digest_size=16).digest())


def _load(path: str | Path, modality: int) -> tuple[Any, Finding | None]:
    """The image in RGB, None where it has no usable pixels, and the fault."""
    try:
        image, mode = read_image(path)
    except MixERValueError as error:
        return None, fault_of(error)
    if modality == Modality.VISIBLE and mode in ("L", "LA", "1"):
        what = f"{path} is a greyscale file, although of a visible camera."
        return image, Finding("error", what, "Copy the coloured image from the source.")
    return image, None
