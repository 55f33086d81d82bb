"""Looks a data set over before hours are spent on it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.sysu_checks import (
    CAMERAS,
    INFRARED_CAMERAS,
    SPLITS,
    Finding,
    check_permutation,
    check_root,
    check_splits,
    list_images,
    some,
)
from mixer_plugin.errors import MissingExtraError

__all__ = ["Finding", "diagnose_sysu"]

Counts = dict[int, tuple[int, int]]  # camera -> (identities, images)

# The release, counted from its rand_perm_cam.mat. Train and validation together are given by the
# papers that use both: 22,258 visible and 11,909 infrared images.
_RELEASE_IDS = {"train": 296, "val": 99, "test": 96}
_RELEASE: dict[str, Counts] = {
    "train": {
        1: (194, 4721),
        2: (195, 5753),
        3: (293, 5929),
        4: (283, 4821),
        5: (294, 4989),
        6: (200, 4000),
    },
    "test": {
        1: (56, 1374),
        2: (56, 1565),
        3: (93, 1883),
        4: (94, 1918),
        5: (95, 1918),
        6: (96, 1920),
    },
}
_RELEASE_TRAINVAL = {"visible": 22258, "infrared": 11909}


def diagnose_sysu(
    root: str | os.PathLike[str],
    *,
    images: bool = True,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks a data set in the layout of SYSU-MM01.

    Split files, cameras, identity folders, modality coverage, file names, the gallery draws and
    their agreement with the files; the known counts where the splits are those of the release. With
    ``images`` also every file: readable to its end, eight bits, colour where visible, and no file
    twice under two identities. Where only ``exp`` is there, only ``exp`` is checked.

    Args:
        root: Folder that holds ``cam1`` ... ``cam6`` and ``exp``.
        images: Whether to read every image (minutes for the whole release).
        workers: Threads that read images.
        progress: Called with (images read, images in all) after every 256 images.

    Returns:
        All findings, errors first, then warnings, then counts. ``read_sysu`` raises those of its
        split that are errors in the same words.

    Raises:
        MissingExtraError: Pillow (with ``images``) or SciPy is not installed.
    """
    root = Path(root).absolute()
    findings = check_root(root)
    if findings:
        return findings
    ids, found = check_splits(root, SPLITS)
    findings += found
    draws, found = check_permutation(root)
    findings += found
    present = [cam for cam in CAMERAS if (root / f"cam{cam}").is_dir()]
    if present:
        paths = _check_folders(root, ids, present, findings)
        counts = {split: _count(paths[split]) for split in paths}
        if draws:
            _check_draws(draws, paths.get("test", {}), findings)
        if images:
            files = [
                (cam, identity, path)
                for split in paths
                for (cam, identity), each in paths[split].items()
                for path in each
            ]
            findings += _check_files(files, workers, progress)
    else:
        what = f"{root} has no camera folder: only exp was checked."
        findings.append(Finding("info", what))
        counts = {split: _count_draws(draws, ids[split]) for split in ids} if draws else {}
    if {split: len(known) for split, known in ids.items()} == _RELEASE_IDS:
        findings += _compare_with_release(counts)
    for split, known in ids.items():
        text = f"{split}: {len(known)} identities"
        if split in counts:
            text += "".join(
                f"; cam{cam} {n_images} images of {n_ids}"
                for cam, (n_ids, n_images) in sorted(counts[split].items())
            )
        findings.append(Finding("info", text + "."))
    order = ("error", "warning", "info")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def _check_folders(
    root: Path, ids: dict[str, NDArray[np.int64]], present: list[int], findings: list[Finding]
) -> dict[str, dict[tuple[int, int], list[Path]]]:
    absent = [cam for cam in CAMERAS if cam not in present]
    if absent:
        what = f"{root} lacks {', '.join(f'cam{cam}' for cam in absent)}."
        findings.append(Finding("error", what, "The protocol uses six cameras: copy the folders."))
    stray = [
        path.relative_to(root).as_posix()
        for cam in present
        for path in sorted((root / f"cam{cam}").iterdir())
        if not (path.is_dir() and path.name.isdigit() and len(path.name) == 4)
    ]
    if stray:
        what = f"Not identity folders (four digits, such as cam1/0001): {some(stray)}."
        findings.append(Finding("warning", what, "Loaders that list all files stumble over them."))
    paths = {}
    for split, known in ids.items():
        listing = list_images(root, known.tolist(), both_modalities=split != "test", split=split)
        findings += listing.findings
        paths[split] = listing.paths
    return paths


def _count(paths: dict[tuple[int, int], list[Path]]) -> Counts:
    return {
        cam: (
            sum(1 for key, files in paths.items() if key[0] == cam and files),
            sum(len(files) for key, files in paths.items() if key[0] == cam),
        )
        for cam in CAMERAS
    }


def _count_draws(draws: dict[int, dict[int, NDArray[np.int64]]], ids: NDArray[np.int64]) -> Counts:
    sizes = {
        cam: [cell[i].shape[1] for i in ids.tolist() if i in cell] for cam, cell in draws.items()
    }
    return {cam: (len(each), sum(each)) for cam, each in sizes.items()}


def _check_draws(
    draws: dict[int, dict[int, NDArray[np.int64]]],
    paths: dict[tuple[int, int], list[Path]],
    findings: list[Finding],
) -> None:
    """Do the gallery draws name exactly the images of the test identities?"""
    without, missing, extra = [], [], []
    for (cam, identity), files in sorted(paths.items()):
        numbers = {int(path.stem) for path in files if path.stem.isdigit()}
        name = f"cam{cam}/{identity:04d}"
        if identity not in draws[cam]:
            if numbers:
                without.append(name)
            continue
        drawn = set(draws[cam][identity][0].tolist())
        missing += [f"{name}/{number:04d}" for number in sorted(drawn - numbers)]
        extra += [f"{name}/{number:04d}" for number in sorted(numbers - drawn)]
    for cam, cell in draws.items():
        tested = {identity for _, identity in paths}
        lost = sorted(i for i in cell if i in tested and (cam, i) not in paths)
        missing += [f"cam{cam}/{identity:04d}" for identity in lost]
    if without:
        what = f"rand_perm_cam has no draws for {some(without)}, which have test images."
        findings.append(Finding("error", what, "File and images are not of one release."))
    if missing:
        what = f"rand_perm_cam draws test images that are not there: {some(missing)}."
        findings.append(Finding("error", what, "Copy the images, or take the file that fits them."))
    if extra:
        what = f"rand_perm_cam never draws these test images: {some(extra)}."
        findings.append(Finding("warning", what, "They are queries but never in a gallery."))


def _check_files(
    files: list[tuple[int, int, Path]],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[Finding]:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pillow", "bench", "Checking images") from error
    findings: list[Finding] = []
    owners: dict[bytes, list[tuple[int, Path]]] = {}
    grey: list[str] = []
    step = 256

    def inspect(start: int) -> list[tuple[str, str, bytes]]:
        return [_inspect(path) for _, _, path in files[start : start + step]]

    done = 0
    with ThreadPoolExecutor(workers) as pool:
        for results in pool.map(inspect, range(0, len(files), step)):
            for (cam, identity, path), (fault, mode, content) in zip(
                files[done : done + step], results, strict=True
            ):
                if fault:
                    what = f"{path} cannot be read as an image ({fault})."
                    findings.append(Finding("error", what, "Copy it again from the source."))
                elif mode.startswith(("I", "F")):
                    what = f"{path} has {mode} pixels; expected 8 bits per channel."
                    fix = "Convert it: a cast to 8 bits would cut it off at 255."
                    findings.append(Finding("error", what, fix))
                elif mode in ("L", "LA", "1") and cam not in INFRARED_CAMERAS:
                    grey.append(str(path))
                owners.setdefault(content, []).append((identity, path))
            done += len(results)
            if progress is not None:
                progress(done, len(files))
    if grey:
        what = f"Images of visible cameras without colour: {some(grey, 3)}."
        findings.append(Finding("warning", what, "Is the camera infrared, or the file converted?"))
    for same in owners.values():
        if len({identity for identity, _ in same}) > 1:
            what = f"The same file under several identities: {some([p for _, p in same])}."
            findings.append(Finding("error", what, "Keep it under the right identity only."))
    return findings


def _inspect(path: Path) -> tuple[str, str, bytes]:
    """Fault (empty if none), pixel mode and hash of an image file."""
    from io import BytesIO

    from PIL import Image

    content = path.read_bytes()
    key = hashlib.blake2b(content, digest_size=16).digest()
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
            return "", image.mode, key
    except (OSError, SyntaxError) as error:
        # The hash of the path: two empty files are a fault each, not the same picture.
        return str(error), "", hashlib.blake2b(str(path).encode(), digest_size=16).digest()


def _compare_with_release(counts: dict[str, Counts]) -> list[Finding]:
    findings = [
        Finding("info", "The splits have the sizes of SYSU-MM01's release (296, 99 and 96).")
    ]
    fix = "Some files are missing or added: results are not comparable."
    for split, known in _RELEASE.items():
        for cam, (n_ids, n_images) in known.items():
            have = counts.get(split, {}).get(cam)
            if have is not None and have != (n_ids, n_images):
                what = (
                    f"{split}, cam{cam}: {have[1]} images of {have[0]} identities; "
                    f"SYSU-MM01 has {n_images} of {n_ids}."
                )
                findings.append(Finding("warning", what, fix))
    if {"train", "val"} <= counts.keys():
        for name, expected in _RELEASE_TRAINVAL.items():
            cams = [cam for cam in CAMERAS if (cam in INFRARED_CAMERAS) == (name == "infrared")]
            have_images = sum(
                counts[split].get(cam, (0, 0))[1] for split in ("train", "val") for cam in cams
            )
            if have_images != expected:
                what = (
                    f"train and val together: {have_images} {name} images; "
                    f"SYSU-MM01 has {expected}."
                )
                findings.append(Finding("warning", what, fix))
    return findings
