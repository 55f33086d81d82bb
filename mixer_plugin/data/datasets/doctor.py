"""Checks a data set before training."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mixer_plugin.data.datasets.findings import Finding, by_severity
from mixer_plugin.data.datasets.image_checks import check_files, check_names
from mixer_plugin.data.datasets.layouts import LAYOUTS, check_layout, recognise
from mixer_plugin.data.datasets.llcm import scan_llcm_whole
from mixer_plugin.data.datasets.market import scan_market_whole
from mixer_plugin.data.datasets.regdb import scan_regdb_whole
from mixer_plugin.data.datasets.sysu_scan import scan_sysu
from mixer_plugin.errors import check_least

__all__ = ["Finding", "diagnose"]

_SCANS = {
    "sysu": scan_sysu,
    "regdb": scan_regdb_whole,
    "llcm": scan_llcm_whole,
    "market": scan_market_whole,
}


def diagnose(
    root: str | os.PathLike[str],
    layout: str | None = None,
    *,
    images: bool = True,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks a data set in one of the four released layouts.

    Split files or folders, identities, cameras, modalities, file names, overlap of training and
    test, SYSU-MM01's gallery draws and their agreement with the files; the known counts where the
    splits have the sizes of the release. With ``images`` also every file: readable to its end,
    eight bits, in colour where visible, no camera of the other modality, no file under two
    identities. Of SYSU-MM01, ``exp`` alone can be checked.

    Args:
        root: Folder of the data set.
        layout: ``sysu``, ``regdb``, ``llcm`` or ``market``; None: by what is there.
        images: Whether to read every image (minutes for a whole release).
        workers: Threads that read images.
        progress: Called with (images read, images in all) after every 256 images.

    Returns:
        All findings, errors first, then warnings, then counts. The readers raise those of their
        split that are errors in the same words.

    Raises:
        MixERValueError: Unknown layout, or ``workers`` is less than 1.
        MissingExtraError: Pillow (with ``images``) or SciPy (for SYSU-MM01) is not installed.
    """
    check_least("workers", workers)
    root = Path(root).absolute()
    findings: list[Finding] = []
    if layout is None:
        layout, findings = recognise(root)
        if layout is None:
            return findings
        findings = [Finding("info", f"{root} has the layout of {LAYOUTS[layout].name}.")]
    check_layout(layout)
    scan = _SCANS[layout](root)
    findings += scan.findings + check_names(list(scan.images.values()))
    if images and scan.images:
        findings += check_files(list(scan.images.values()), workers, progress)
    return by_severity(findings)
