"""Lists of images, one ``path label`` per line, as RegDB and LLCM give their splits."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixer_plugin.data.datasets.findings import Finding, is_image, list_folder, read_lines, some
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.folder import is_litter
from mixer_plugin.io.whole_number import whole_number


class Listed(NamedTuple):
    """One line of a list: path relative to the root, identity (its folder's number), label."""

    path: str
    identity: int
    label: int


def read_list(
    root: Path, name: str, others: Sequence[str], example: str
) -> tuple[list[Listed] | None, list[Finding]]:
    """Reads a list and checks its form.

    Args:
        root: Folder of the data set.
        name: The list, relative to it.
        others: Folders of the other modality, which no path may name.
        example: A line as it should be, for messages.

    Returns:
        Its lines without repetitions, None where it is missing or unreadable; and the findings.
    """
    path = root / name
    holds = f"one line per image, path and label, such as '{example}'"
    lines, findings = read_lines(path, holds)
    if lines is None:
        return None, findings
    given = {number: line for number, line in enumerate(lines, start=1) if line.strip()}
    parsed = {number: _parse(line, f"{path}, line {number}") for number, line in given.items()}
    beyond = [row for row in parsed.values() if isinstance(row, str)]
    broken = [number for number, row in parsed.items() if row is None]
    rows = [row for row in parsed.values() if isinstance(row, Listed)]
    litter = [row.path for row in rows if any(map(is_litter, row.path.split("/")))]
    rows = [row for row in rows if row.path not in set(litter)] if litter else rows
    swapped = [row.path for row in rows if set(row.path.split("/")[:-1]) & set(others)]
    known = set(swapped)
    listed = [row for row in rows if row.path not in known]
    if broken:
        what = f"{path} cannot be read in line {some(broken)}."
        findings.append(Finding("error", what, f"Expected {holds}."))
    if beyond:
        findings.append(Finding("error", some(beyond, show=1), f"Expected {holds}."))
    if litter:
        what = f"{path} names files that are no images: {some(litter)}."
        findings.append(Finding("warning", what, "They are passed over: remove the lines."))
    if swapped:
        what = f"{path} names images of the other modality: {some(swapped)}."
        findings.append(Finding("error", what, "Are the lists swapped? Copy the release's."))
    if not parsed:
        findings.append(Finding("error", f"{path} is empty.", f"Expected {holds}."))
    once = list(dict.fromkeys(listed))
    if len(once) < len(listed):
        what = f"{path} names {len(listed) - len(once)} images more than once."
        findings.append(Finding("warning", what, "Remove the repetitions."))
    return once, findings


def _parse(line: str, where: str) -> Listed | str | None:
    """A line; None where it has another form, or what is wrong with its numbers."""
    words = line.rsplit(maxsplit=1)
    parts = posixpath.normpath(words[0].replace("\\", "/")).strip("/").split("/")
    if len(words) != 2 or len(parts) < 2 or parts[0] == "..":
        return None
    if not all(word.isascii() and word.isdigit() for word in (parts[-2], words[1])):
        return None
    try:
        identity, label = (whole_number(word, where) for word in (parts[-2], words[1]))
    except MixERValueError as error:
        return str(error)
    return Listed("/".join(parts), identity, label)


def check_labels(lists: dict[str, list[Listed]]) -> list[Finding]:
    """Checks that identities and labels correspond one to one in lists used together."""
    pairs = {(row.identity, row.label) for rows in lists.values() for row in rows}
    torn: list[int] = []
    for side in zip(*pairs, strict=True):  # all identities, then all labels
        torn += sorted(value for value, count in Counter(side).items() if count > 1)
    if not torn:
        return []
    what = f"{' and '.join(lists)}: labels do not fit the identity folders: {some(torn)}."
    return [Finding("error", what, "Each folder has one label of its own: copy the release's.")]


def check_files(root: Path, name: str, rows: list[Listed]) -> list[Finding]:
    """Checks that the files of a list exist; messages call the list ``name``."""
    folders: dict[str, list[str]] = {}
    for row in rows:
        folder, _, file = row.path.rpartition("/")
        folders.setdefault(folder, []).append(file)
    findings: list[Finding] = []
    absent: list[str] = []
    missing: list[str] = []
    for folder, files in folders.items():
        names, closed = list_folder(root / folder)
        if closed:
            findings.append(closed)
        elif names is None:
            absent.append(folder)
        elif not any(is_image(each) for each in names):
            fix = "Copy the images, or remove the folder."
            findings.append(Finding("error", f"{root / folder} is empty.", fix))
        else:
            there = set(names)
            missing += [f"{folder}/{file}" for file in files if file not in there]
    fix = "Copy the images, or take the list that fits them."
    for what, which in (("folders", absent), ("images", missing)):
        if which:
            text = f"{root / name} names {what} that are not there: {some(which)}."
            findings.append(Finding("error", text, fix))
    return findings


def image_list(root: Path, rows: Sequence[tuple[str, int, int, int]]) -> ImageList:
    """Images of (relative path, identity, camera, modality) rows.

    They are sorted by modality, then camera, identity and path.
    """
    rows = sorted(rows, key=lambda row: row[::-1])
    columns = (np.asarray([row[at] for row in rows], dtype=np.int64) for at in (1, 2, 3))
    return ImageList(root, tuple(str(root / row[0]) for row in rows), *columns)


def count_text(split: str, images: ImageList) -> Finding:
    """How many identities and images a split has, by modality and camera."""
    text = f"{split}: {len(np.unique(images.ids[images.ids > 0]))} identities"  # 0, -1: unknown
    for modality, name in enumerate(("visible", "infrared")):
        cams, counts = np.unique(images.cams[images.modality == modality], return_counts=True)
        if len(cams):
            each = ", ".join(f"camera {c} {n}" for c, n in zip(cams, counts, strict=True))
            text += f"; {counts.sum()} {name} images ({each})"
    return Finding("info", text + ".")
