"""Reader of LLCM in its released layout.

Zhang and Wang, Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark, CVPR
2023; github.com/ZYK100/LLCM. Layout: ``vis/{id}/…``, ``nir/{id}/…`` with names such as
``0351_c06_s200656_f4830_nir.jpg`` (camera 6) and ``idx/{train,test}_{vis,nir}.txt`` with lines
``path label``. The test images are there once more by camera, ``test_vis/cam{1..9}/{id:04d}`` and
``test_nir/cam{1,2,4..9}/{id:04d}``, with their identities in ``idx/test_id.txt``.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from mixer_plugin.data.datasets.findings import (
    Finding,
    Scan,
    check_modalities,
    check_overlap,
    is_image,
    list_folder,
    raise_errors,
    read_lines,
    some,
)
from mixer_plugin.data.datasets.image_checks import check_colours, check_names
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.release import compare
from mixer_plugin.data.datasets.split_lists import (
    check_files,
    check_labels,
    count_text,
    image_list,
    read_list,
)
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.io.whole_number import whole_number
from mixer_plugin.releases import LLCM

SPLITS = ("train", "test")
_KINDS = ("vis", "nir")
_CAMERA = re.compile(r"_c([0-9]{1,9})_")
# In training both modalities have all nine; in the test set infrared camera 3 is absent.
_CAMERAS = {"train": (LLCM.cameras[0], LLCM.cameras[0]), "test": LLCM.cameras}

_Rows = list[tuple[str, int, int, int]]  # relative path, identity, camera, modality


def read_llcm(root: str | os.PathLike[str], split: str) -> ImageList:
    """Lists the images of a split.

    The test images are those of ``idx/test_vis.txt`` and ``idx/test_nir.txt``; where neither list
    is there, those of the copies by camera, ``test_vis`` and ``test_nir`` (the paths show which).
    Both are the same images with the same file names.

    Args:
        root: Folder that holds ``idx``, ``vis`` and ``nir``.
        split: ``train`` or ``test``.

    Returns:
        Visible images, then infrared ones, each sorted by camera, identity and path. Camera 1 of
        either modality is one place.

    Raises:
        MixERValueError: Unknown split, or the folder lacks or contradicts something; the message
            names all that was found (``diagnose`` checks more).
    """
    check_name("split", split, SPLITS)
    scan = scan_llcm(Path(root).absolute(), (split,))
    raise_errors(scan.findings, root)
    raise_errors(check_names([scan.images[split]]) + check_colours(scan.images[split]), root)
    return scan.images[split]


def scan_llcm(root: Path, splits: tuple[str, ...]) -> Scan:
    """Looks through splits.

    Args:
        root: Absolute folder.
        splits: Which of train and test are needed; the other's lists are read if they are there,
            since an identity in both makes either useless.

    Returns:
        The images of these splits, and the findings.
    """
    scan = Scan()
    ids: dict[str, set[int]] = {}
    for split in SPLITS:
        needed = split in splits
        if split == "test" and not _has_test_lists(root):
            rows, ids["idx/test_id.txt"], found = _from_copies(root)
            source = "idx/test_id.txt"
        else:
            source = f"idx/{split}_*.txt"
            rows, ids[source], found = _from_lists(root, split, files=needed)
        scan.findings += found if needed else []
        if needed and rows:
            sides = [{i for _, i, _, m in rows if m == modality} for modality in (0, 1)]
            lacking = {
                "visible images": sorted(sides[1] - sides[0]),
                "infrared images": sorted(sides[0] - sides[1]),
            }
            scan.findings += check_modalities(lacking, source, training=split == "train")
            scan.images[split] = image_list(root, rows)
    scan.findings += check_overlap(ids, str)
    return scan


def scan_llcm_whole(root: Path) -> Scan:
    """Looks through both splits, for the doctor, and compares lists and copies by camera."""
    scan = scan_llcm(root, SPLITS)
    scan.findings += [count_text(*each) for each in scan.images.items()]
    if len(scan.images) == len(SPLITS):
        scan.findings += compare("llcm", scan.images["train"], scan.images["test"])
    if not _has_test_lists(root):
        if "test" in scan.images:
            what = f"{root / 'idx'} has no test lists: test is read from test_vis and test_nir."
            scan.findings.append(Finding("info", what))
    elif "test" in scan.images and (root / "test_vis").is_dir():
        rows, _, found = _from_copies(root)
        # The lists are what is read: faults of the copies concern other codebases.
        scan.findings += [replace(each, severity="warning") for each in found]
        copies = {(m, Path(path).name) for path, _, _, m in rows}
        test = scan.images["test"]
        names = [Path(path).name for path in test.paths]
        listed = set(zip(test.modality.tolist(), names, strict=True))
        differ = sorted(name for _, name in copies ^ listed)
        if differ and rows:
            what = f"idx/test_*.txt and the copies test_vis, test_nir differ: {some(differ)}."
            fix = "Codebases that read the copies test on other images: copy the release's."
            scan.findings.append(Finding("warning", what, fix))
    return scan


def _has_test_lists(root: Path) -> bool:
    names, _ = list_folder(root / "idx")
    return bool({f"test_{kind}.txt" for kind in _KINDS} & set(names or ()))


def _from_lists(root: Path, split: str, *, files: bool) -> tuple[_Rows, set[int], list[Finding]]:
    """Rows and identities of a split's lists, and the findings (``files``: also of the files)."""
    rows: _Rows = []
    findings: list[Finding] = []
    lists = {}
    nameless: list[str] = []
    foreign: list[str] = []
    for modality, kind in enumerate(_KINDS):
        name = f"idx/{split}_{kind}.txt"
        other = _KINDS[1 - modality]
        example = f"{kind}/0001/0001_c06_s200656_f4830_{kind}.jpg 0"
        listed, found = read_list(root, name, (other, f"test_{other}"), example)
        findings += found
        if listed is None:
            continue
        lists[name] = listed
        if files:
            findings += check_files(root, name, listed)
        for line in listed:
            camera = _CAMERA.search(line.path.rpartition("/")[2])
            if camera is None:
                nameless.append(line.path)
            elif int(camera[1]) not in _CAMERAS[split][modality]:
                foreign.append(line.path)
            else:
                rows.append((line.path, line.identity, int(camera[1]), modality))
    if split == "train":  # nobody reads the labels of the test lists
        findings += check_labels(lists)
    if nameless:
        what = f"The lists idx/{split}_*.txt name images without a camera: {some(nameless)}."
        fix = "Expected names such as 0351_c06_s200656_f4830_nir.jpg (camera 6)."
        findings.append(Finding("error", what, fix))
    if foreign:
        findings.append(_foreign_cameras(f"The lists idx/{split}_*.txt name", split, foreign))
    ids = {line.identity for listed in lists.values() for line in listed}
    return rows, ids, findings


def _foreign_cameras(where: str, split: str, named: list[str]) -> Finding:
    visible, infrared = (", ".join(map(str, side)) for side in _CAMERAS[split])
    what = f"{where} cameras that LLCM has not: {some(named)}."
    fix = f"Expected cameras {visible} visible and {infrared} infrared: take the others out."
    return Finding("error", what, fix)


def _from_copies(root: Path) -> tuple[_Rows, set[int], list[Finding]]:
    """Rows of the test images by camera, their identities, and the findings."""
    source = "idx/test_id.txt"
    names, _ = list_folder(root)
    absent = [f"test_{kind}" for kind in _KINDS if f"test_{kind}" not in (names or ())]
    if absent:
        what = f"{root / 'idx'} has no test_vis.txt and test_nir.txt, and {root} no {some(absent)}."
        fix = (
            "Copy the lists from the release (one line per image, path and label), or the test "
            "images by camera (test_vis/cam1/0001/...)."
        )
        return [], set(), [Finding("error", what, fix)]
    holds = "the identities of the test set on one line, comma separated"
    lines, findings = read_lines(root / source, holds)
    if lines is None:
        return [], set(), findings
    words = ",".join(lines).replace(",", " ").split()
    ids: set[int] = set()
    wrong = ""
    try:
        ids = {whole_number(word, f" {source}") for word in words}
    except MixERValueError as error:
        wrong = f":{error}".rstrip(".")
    if not ids or min(ids) < 0:
        what = f"{root / source} cannot be read as identities{wrong}."
        return [], set(), [*findings, Finding("error", what, f"Expected {holds}.")]
    rows: _Rows = []
    for modality, kind in enumerate(_KINDS):
        folder = f"test_{kind}"
        cams, closed = list_folder(root / folder)
        findings += [closed] if closed else []
        allowed = {f"cam{cam}": cam for cam in LLCM.cameras[modality]}
        numbered = [name for name in cams or () if re.fullmatch(r"cam\d+", name)]
        foreign = [f"{folder}/{name}" for name in numbered if name not in allowed]
        if foreign:
            findings.append(_foreign_cameras(f"{root} has", "test", foreign))
        for name in allowed.keys() & set(numbered):
            found, faults = _camera(root, f"{folder}/{name}", ids)
            findings += faults
            rows += [(path, identity, allowed[name], modality) for path, identity in found]
    lost = sorted(ids - {identity for _, identity, _, _ in rows})
    if lost:
        what = f"{root / source} names identities without an image: {some(lost)}."
        findings.append(Finding("error", what, "Copy the images, or take the identities out."))
    return rows, ids, findings


def _camera(root: Path, folder: str, ids: set[int]) -> tuple[list[tuple[str, int]], list[Finding]]:
    """The images (relative path, identity) of some identities below a camera's folder."""
    found: list[tuple[str, int]] = []
    findings: list[Finding] = []
    people, closed = list_folder(root / folder)
    findings += [closed] if closed else []
    for person in people or ():
        if not re.fullmatch("[0-9]{1,18}", person) or int(person) not in ids:
            continue
        names, closed = list_folder(root / folder / person)
        findings += [closed] if closed else []
        images = [name for name in names or () if is_image(name)]
        found += [(f"{folder}/{person}/{name}", int(person)) for name in images]
        if not images and not closed:
            what = f"{root / folder / person} is empty."
            findings.append(Finding("error", what, "Copy the images, or remove the folder."))
    return found, findings
