"""Checks of the SYSU-MM01 layout, shared by the reader and the doctor.

Layout: ``cam{1..6}/{id:04d}/{number:04d}.jpg`` and ``exp/{train,val,test}_id.txt`` (ids on one
line, comma separated) or its ``.mat`` twin; cameras 3 and 6 are infrared.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.datasets.findings import (
    Finding,
    are,
    check_modalities,
    check_overlap,
    fault_of,
    is_image,
    list_folder,
    some,
)
from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.io.mat.file import read_mat
from mixer_plugin.io.permutation_file import Draws, read_permutation_file
from mixer_plugin.io.text_file import read_text
from mixer_plugin.io.whole_number import whole_number, whole_numbers
from mixer_plugin.releases import SYSU, SYSU_IDENTITIES

CAMERAS = SYSU.every_camera
SPLITS = tuple(SYSU_IDENTITIES)


@dataclass
class Listing:
    """The image files of some identities, as found on disk.

    Attributes:
        paths: Paths by (camera, identity), sorted by number.
        findings: What is wrong with them.
    """

    paths: dict[tuple[int, int], list[Path]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def check_root(root: Path) -> list[Finding]:
    """Checks that the folder holds a data set."""
    fix = "Give the folder that holds cam1 ... cam6 and exp."
    names, closed = list_folder(root)
    if closed:
        return [closed]
    if names is None:
        return [Finding("error", f"{root} is not a folder.", fix)]
    if "exp" not in names:
        inner = sorted(path.parent.name for path in root.glob("*/exp"))
        hint = f" (did you mean {root / inner[0]}?)" if inner else ""
        return [Finding("error", f"{root} has no folder exp{hint}.", fix)]
    return []


def check_cameras(root: Path) -> list[Finding]:
    """Checks for folders of cameras that SYSU-MM01 does not have."""
    names, _ = list_folder(root)
    allowed = {f"cam{cam}" for cam in CAMERAS}
    extra = [name for name in names or () if re.fullmatch(r"cam\d+", name) and name not in allowed]
    if not extra:
        return []
    what = f"{root} has cameras that SYSU-MM01 has not: {some(extra)}."
    return [Finding("error", what, "Expected cam1 ... cam6: move the others elsewhere.")]


def check_splits(
    root: Path, splits: Sequence[str]
) -> tuple[dict[str, NDArray[np.int64]], list[Finding]]:
    """Reads split files and checks that they are there, hold identities and do not overlap.

    Args:
        root: Folder of the data set.
        splits: Which of train, val and test are needed. The others are read if they are there,
            since an identity in two splits makes either useless.

    Returns:
        The sorted identities of every split that could be read, int64, and the findings.
    """
    ids: dict[str, NDArray[np.int64]] = {}
    _, closed = list_folder(root / "exp")
    if closed:
        return {}, [closed]
    findings: list[Finding] = []
    for split in SPLITS:
        text, twin = root / "exp" / f"{split}_id.txt", root / "exp" / f"{split}_id.mat"
        if not text.is_file() and not twin.is_file():
            if split in splits:
                what = f"{text} is missing (and so is {twin.name})."
                fix = (
                    f"Copy it from the release: the identities of the {split} split on one line, "
                    "comma separated."
                )
                findings.append(Finding("error", what, fix))
            continue
        source = text if text.is_file() else twin
        try:
            values = _parse_text(text) if source is text else _parse_mat(twin)
        except (OSError, ValueError, MixERTypeError) as error:
            what = f"{source} cannot be read as identities: {error}".rstrip(".") + "."
            fix = "Expected positive integers on one line, comma separated, such as 1,2,5."
            findings.append(Finding("error", what, fix))
            continue
        known, counts = np.unique(values, return_counts=True)
        if (counts > 1).any():
            what = f"{source} names identities twice: {some(known[counts > 1].tolist())}."
            findings.append(Finding("warning", what, "Remove the repetitions."))
        ids[split] = known
    findings += check_overlap(
        {split: known.tolist() for split, known in ids.items()}, lambda split: f"{split}_id"
    )
    return ids, findings


def _parse_text(path: Path) -> NDArray[np.int64]:
    words = read_text(path).replace(",", " ").split()
    if not words:
        raise ValueError("it is empty")
    wrong = [word for word in words if not re.fullmatch("0*[1-9][0-9]{,17}", word)]
    if wrong:
        raise ValueError(f"it holds {', '.join(repr(word[:20]) for word in wrong[:3])}")
    return np.asarray([whole_number(word, path.name) for word in words])


def _parse_mat(path: Path) -> NDArray[np.int64]:
    values = whole_numbers(read_mat(path, "id"), "its variable 'id'").reshape(-1)
    if not len(values) or (values < 1).any():
        raise ValueError("its variable 'id' does not hold positive integers")
    return values


def list_images(root: Path, ids: Collection[int], *, both_modalities: bool, split: str) -> Listing:
    """Finds the images of some identities and checks that they can be used.

    Args:
        root: Folder of the data set.
        ids: The identities.
        both_modalities: Whether an identity without visible or without infrared images is an error
            (training) or only a warning.
        split: Name of the split, for the messages.

    Returns:
        Paths and findings.
    """
    listing = Listing()
    absent: list[int] = []
    visible, infrared = "visible images (cam 1, 2, 4, 5)", "infrared images (cam 3, 6)"
    lacking: dict[str, list[int]] = {visible: [], infrared: []}
    for identity in sorted(ids):
        folders = [cam for cam in CAMERAS if _list_folder(root, cam, identity, listing)]
        if not folders:
            absent.append(identity)
            continue
        seen = {cam for cam in folders if listing.paths.get((cam, identity))}
        if seen and seen <= set(SYSU.infrared):
            lacking[visible].append(identity)
        if seen and not seen & set(SYSU.infrared):
            lacking[infrared].append(identity)
    if absent:
        what = (
            f"{are(absent)} in {split}_id but without a folder in any camera "
            f"(such as cam1/{absent[0]:04d})."
        )
        fix = "Copy the images, or take the identities out of the split file."
        listing.findings.append(Finding("error", what, fix))
    listing.findings += check_modalities(lacking, f"{split}_id", training=both_modalities)
    return listing


def _list_folder(root: Path, cam: int, identity: int, listing: Listing) -> bool:
    folder = root / f"cam{cam}" / f"{identity:04d}"
    names, closed = list_folder(folder)
    if names is None:
        return False
    if closed:
        listing.findings.append(closed)
        return True
    files = [folder / name for name in names if is_image(name)]
    wrong = sorted(path.name for path in files if not _is_number(path))
    if wrong:
        what = f"{folder} holds images whose names are not numbers: {some(wrong)}."
        fix = "Name them 0001.jpg and so on: the gallery draws name images by their number."
        listing.findings.append(Finding("error", what, fix))
    numbered = sorted((path for path in files if _is_number(path)), key=lambda path: int(path.stem))
    numbers = [int(path.stem) for path in numbered]
    twice = sorted({number for number, after in pairwise(numbers) if number == after})
    if twice:
        what = f"{folder} holds two images of the same number: {some(twice)}."
        listing.findings.append(Finding("error", what, "Keep one of each."))
    if not files:
        what = f"{folder} is empty."
        fix = "Copy the images, or remove the folder."
        listing.findings.append(Finding("error", what, fix))
    listing.paths[cam, identity] = numbered
    return True


def _is_number(path: Path) -> bool:
    return path.stem.isascii() and path.stem.isdigit()


def check_permutation(root: Path) -> tuple[Draws, list[Finding]]:
    """Reads the gallery draws ``exp/rand_perm_cam.mat`` and checks their form.

    Args:
        root: Folder of the data set.

    Returns:
        camera -> identity -> int64 [trials, images] of 1-based image numbers (identities without an
        image in the camera are left out), and the findings.
    """
    path = root / "exp" / "rand_perm_cam.mat"
    fix = "Copy it from the release (evaluation/data_split/rand_perm_cam.mat of SYSU-MM01)."
    if not path.is_file():
        return {}, [Finding("error", f"{path} is missing.", fix)]
    try:
        draws = read_permutation_file(path)
    except MixERValueError as error:
        return {}, [fault_of(error)]
    findings: list[Finding] = []
    few = min((len(trials) for cell in draws.values() for trials in cell.values()), default=10)
    if few < 10:
        what = f"rand_perm_cam holds {few} trials; the protocol averages 10."
        findings.append(Finding("warning", what, "Results on fewer trials are not comparable."))
    return draws, findings


def check_draws(draws: Draws, paths: dict[tuple[int, int], list[Path]]) -> list[Finding]:
    """Checks that the gallery draws name exactly the images of the test identities.

    Args:
        draws: camera -> identity -> int64 [trials, images], image numbers.
        paths: The test images by (camera, identity).
    """
    findings = []
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
        fix = "Copy the images, or take the file that fits them (protocols with '@ye' need none)."
        findings.append(Finding("error", what, fix))
    if extra:
        what = f"rand_perm_cam never draws these test images: {some(extra)}."
        findings.append(Finding("warning", what, "They are queries but never in a gallery."))
    return findings
