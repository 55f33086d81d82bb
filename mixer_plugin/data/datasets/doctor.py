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

    It checks split files or folders, identities, cameras, modalities and file names, that training
    and test share no identity, that SYSU-MM01's gallery draws agree with the files, and the known
    counts where the splits have the sizes of the release. With ``images`` it also reads every
    file: it must be readable to its end, have 8 bits per channel, be in colour if it is visible,
    and lie under one identity only; a camera must not show the other modality. A SYSU-MM01 folder
    that holds ``exp`` alone can be checked, too.

    Args:
        root: Folder of the data set.
        layout: ``sysu``, ``regdb``, ``llcm`` or ``market``; None: by what is there.
        images: Whether to read every image (minutes for a whole release).
        workers: Threads that read images.
        progress: Called with (images read, images in all) after every 256 images.

    Returns:
        All findings, errors first, then warnings, then counts. A reader raises the errors of its
        split in the same words.

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
