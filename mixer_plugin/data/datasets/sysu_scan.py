"""Checks a whole data set in SYSU-MM01's layout, for the doctor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.datasets.findings import Finding, Scan, list_folder, some
from mixer_plugin.data.datasets.release import ByCamera, compare_sysu
from mixer_plugin.data.datasets.sysu import image_list
from mixer_plugin.data.datasets.sysu_checks import (
    CAMERAS,
    SPLITS,
    check_cameras,
    check_draws,
    check_permutation,
    check_root,
    check_splits,
    list_images,
)


def scan_sysu(root: Path) -> Scan:
    """Checks split files, cameras, folders, names and gallery draws, and counts.

    Args:
        root: Absolute folder; where it has no camera folder, only ``exp`` is checked.

    Returns:
        The images by split, and the findings.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    scan = Scan(findings=check_root(root))
    if scan.findings:
        return scan
    findings = scan.findings
    findings += check_cameras(root)
    ids, found = check_splits(root, SPLITS)
    findings += found
    draws, found = check_permutation(root)
    findings += found
    present = [cam for cam in CAMERAS if (root / f"cam{cam}").is_dir()]
    if present:
        paths = _check_folders(root, ids, present, findings)
        counts = {split: _count(paths[split]) for split in paths}
        scan.images = {split: image_list(root, paths[split]) for split in paths}
        if draws:
            findings += check_draws(draws, paths.get("test", {}))
    else:
        what = f"{root} has no camera folder: only exp was checked."
        findings.append(Finding("info", what))
        counts = {split: _count_draws(draws, ids[split]) for split in ids} if draws else {}
    findings += compare_sysu({split: len(known) for split, known in ids.items()}, counts)
    for split, known in ids.items():
        text = f"{split}: {len(known)} identities"
        if split in counts:
            text += "".join(
                f"; cam{cam} {n_images} images of {n_ids}"
                for cam, (n_ids, n_images) in sorted(counts[split].items())
            )
        findings.append(Finding("info", text + "."))
    return scan


def _check_folders(
    root: Path, ids: dict[str, NDArray[np.int64]], present: list[int], findings: list[Finding]
) -> dict[str, dict[tuple[int, int], list[Path]]]:
    absent = [cam for cam in CAMERAS if cam not in present]
    if absent:
        what = f"{root} lacks {', '.join(f'cam{cam}' for cam in absent)}."
        findings.append(Finding("error", what, "The protocol uses six cameras: copy the folders."))
    stray = []
    for cam in present:
        names, closed = list_folder(root / f"cam{cam}")
        findings += [closed] if closed else []
        stray += [f"cam{cam}/{name}" for name in names or () if not _is_identity(root, cam, name)]
    if stray:
        what = f"Not identity folders (four digits, such as cam1/0001): {some(stray)}."
        findings.append(Finding("warning", what, "Loaders that list all files stumble over them."))
    paths = {}
    for split, known in ids.items():
        listing = list_images(root, known.tolist(), both_modalities=split != "test", split=split)
        findings += listing.findings
        paths[split] = listing.paths
    return paths


def _is_identity(root: Path, cam: int, name: str) -> bool:
    return len(name) == 4 and name.isdigit() and (root / f"cam{cam}" / name).is_dir()


def _count(paths: dict[tuple[int, int], list[Path]]) -> ByCamera:
    return {
        cam: (
            sum(1 for key, files in paths.items() if key[0] == cam and files),
            sum(len(files) for key, files in paths.items() if key[0] == cam),
        )
        for cam in CAMERAS
    }


def _count_draws(
    draws: dict[int, dict[int, NDArray[np.int64]]], ids: NDArray[np.int64]
) -> ByCamera:
    sizes = {
        cam: [cell[i].shape[1] for i in ids.tolist() if i in cell] for cam, cell in draws.items()
    }
    return {cam: (len(each), sum(each)) for cam, each in sizes.items()}
