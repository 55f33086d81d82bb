"""Reader of Market-1501 in its released layout.

Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015. Layout:
``bounding_box_train``, ``query`` and ``bounding_box_test`` with names ``0002_c1s1_000451_03.jpg``
(identity 2, camera 1); in the gallery, identity -1 is junk and 0 a distractor. All are visible.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from mixer_plugin.data.datasets.findings import (
    Finding,
    Scan,
    are,
    check_overlap,
    is_image,
    list_folder,
    raise_errors,
    some,
)
from mixer_plugin.data.datasets.image_checks import check_colours, check_names
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.release import compare
from mixer_plugin.data.datasets.split_lists import count_text
from mixer_plugin.errors import check_name
from mixer_plugin.releases import MARKET, MARKET_FOLDERS, MARKET_JUNK

TRAIN, QUERY, GALLERY = MARKET_FOLDERS
SPLITS = {"train": (TRAIN,), "query": (QUERY,), "gallery": (GALLERY,), "test": (QUERY, GALLERY)}
_NAME = re.compile(r"(-1|[0-9]{4,18})_c([0-9]{1,9})\D")  # numbers of up to 64 bits


def read_market(root: str | os.PathLike[str], split: str) -> ImageList:
    """Lists the images of a split.

    Args:
        root: Folder that holds ``bounding_box_train``, ``query`` and ``bounding_box_test``.
        split: ``train``, ``query``, ``gallery``, or ``test``: the last two together, whose folders
            the protocol ``market1501`` tells apart.

    Returns:
        All images of the folder by name, junk (-1) and distractors (0) of the gallery included;
        ``test`` is the queries, then the gallery.

    Raises:
        MixERValueError: Unknown split, or the folder lacks or contradicts something; the message
            names all that was found (``diagnose`` checks more).
    """
    check_name("split", split, SPLITS)
    scan = scan_market(Path(root).absolute(), (split,))
    raise_errors(scan.findings, root)
    raise_errors(check_names([scan.images[split]]) + check_colours(scan.images[split]), root)
    return scan.images[split]


def scan_market(root: Path, splits: tuple[str, ...]) -> Scan:
    """Looks through splits.

    Args:
        root: Absolute folder.
        splits: Which of train, query, gallery and test are needed; the other folders are read if
            they are there, since an identity in training and test makes either useless.

    Returns:
        The images of these splits, and the findings.
    """
    scan = Scan()
    needed = {folder for split in splits for folder in SPLITS[split]}
    rows: dict[str, list[tuple[str, int, int]]] = {}
    for folder in (TRAIN, QUERY, GALLERY):
        rows[folder], found = _list(root, folder)
        scan.findings += found if folder in needed else []
    known = {
        folder: {identity for _, identity, _ in each if identity > 0}
        for folder, each in rows.items()
    }
    scan.findings += check_overlap({TRAIN: known[TRAIN], QUERY: known[QUERY]}, str)
    scan.findings += check_overlap({TRAIN: known[TRAIN], GALLERY: known[GALLERY]}, str)
    if {QUERY, GALLERY} <= needed and known[GALLERY]:
        alone = sorted(known[QUERY] - known[GALLERY])
        if alone:
            what = f"{are(alone)} in {QUERY} but without an image in {GALLERY}."
            scan.findings.append(Finding("warning", what, "Their queries find no match."))
    for split in splits:
        images = [row for folder in SPLITS[split] for row in rows[folder]]
        if images:
            scan.images[split] = ImageList(
                root=root,
                paths=tuple(path for path, _, _ in images),
                ids=np.asarray([identity for _, identity, _ in images], dtype=np.int64),
                cams=np.asarray([cam for _, _, cam in images], dtype=np.int64),
                modality=np.zeros(len(images), dtype=np.int64),
            )
    return scan


def scan_market_whole(root: Path) -> Scan:
    """Looks through all three folders, for the doctor."""
    scan = scan_market(root, ("train", "test"))
    scan.findings += [count_text(*each) for each in scan.images.items()]
    if len(scan.images) == 2:
        scan.findings += compare("market", scan.images["train"], scan.images["test"])
    return scan


def _list(root: Path, folder: str) -> tuple[list[tuple[str, int, int]], list[Finding]]:
    """The images (path, identity, camera) of a folder, and what is wrong with them."""
    names, closed = list_folder(root / folder)
    if closed:
        return [], [closed]
    fix = "It should hold images such as 0002_c1s1_000451_03.jpg (identity 2, camera 1)."
    if names is None:
        return [], [Finding("error", f"{root / folder} is missing.", fix)]
    images = [name for name in names if is_image(name)]
    if not images:
        return [], [Finding("error", f"{root / folder} is empty.", fix)]
    rows: list[tuple[str, int, int]] = []
    nameless: list[str] = []
    foreign: list[str] = []
    unknown: list[str] = []
    for name in images:
        match = _NAME.match(name)
        if match is None:
            nameless.append(name)
        elif int(match[2]) not in MARKET.every_camera:
            foreign.append(name)
        elif int(match[1]) < 1 and folder != GALLERY:
            unknown.append(name)
        else:
            rows.append((str(root / folder / name), int(match[1]), int(match[2])))
    findings = []
    if nameless:
        what = f"{root / folder} holds images without identity and camera: {some(nameless)}."
        findings.append(Finding("error", what, fix))
    if foreign:
        what = f"{root / folder} has cameras that Market-1501 has not: {some(foreign)}."
        findings.append(Finding("error", what, "Expected cameras 1 to 6: take the others out."))
    if unknown:
        what = f"{root / folder} holds junk ({MARKET_JUNK}) or distractors (0): {some(unknown)}."
        findings.append(Finding("error", what, f"They belong into {GALLERY}."))
    return rows, findings
