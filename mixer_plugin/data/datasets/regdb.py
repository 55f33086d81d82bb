"""Reader of RegDB in its released layout.

Nguyen et al., Person Recognition System Based on a Combination of Body Images from Visible Light
and Thermal Cameras, Sensors 2017; the ten splits are those of github.com/mangye16.
Layout: ``Visible/{id}/*.bmp``, ``Thermal/{id}/*.bmp`` and
``idx/{train,test}_{visible,thermal}_{1..10}.txt`` with lines ``Visible/1/x.bmp 0``.
"""

from __future__ import annotations

import os
from pathlib import Path

from mixer_plugin.data.datasets.findings import (
    Finding,
    Scan,
    check_modalities,
    check_overlap,
    raise_errors,
)
from mixer_plugin.data.datasets.image_checks import check_colours, check_names
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.release import compare
from mixer_plugin.data.datasets.split_lists import (
    Listed,
    check_files,
    check_labels,
    count_text,
    image_list,
    read_list,
)
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.releases import REGDB, REGDB_SPLITS

FOLDERS = ("Visible", "Thermal")
SPLITS = ("train", "test")


def read_regdb(root: str | os.PathLike[str], split: str, trial: int = 1) -> ImageList:
    """Lists the training or the test images of a trial: one half of the identities.

    RegDB has one visible and one thermal camera without numbers: they are 1 and 2 here. The
    protocols ``regdb/1`` ... ``regdb/10`` remove nothing by camera (``same_camera="keep"``).

    Args:
        root: Folder that holds ``Visible``, ``Thermal`` and ``idx``.
        split: ``train`` or ``test``.
        trial: Number of the trial (one of the ten random halvings), 1 to 10.

    Returns:
        Visible images, then thermal ones, each sorted by identity and path; the identity is the
        number of the folder.

    Raises:
        MixERValueError: Unknown split or trial, or the folder lacks or contradicts something; the
            message names all that was found (``diagnose`` checks more).
    """
    check_name("split", split, SPLITS)
    if trial not in REGDB_SPLITS:
        raise MixERValueError(f"trial must be 1 to {len(REGDB_SPLITS)}, got {trial!r}.")
    scan = scan_regdb(Path(root).absolute(), (split,), trial)
    raise_errors(scan.findings, root)
    raise_errors(check_names([scan.images[split]]) + check_colours(scan.images[split]), root)
    return scan.images[split]


def scan_regdb(root: Path, splits: tuple[str, ...], trial: int) -> Scan:
    """Looks through one trial.

    Args:
        root: Absolute folder.
        splits: Which of train and test are needed; the other's lists are read if they are there,
            since an identity in both makes either useless.
        trial: 1 to 10.

    Returns:
        The images of these splits, and the findings.
    """
    scan = Scan()
    ids: dict[str, set[int]] = {}
    for split in SPLITS:
        lists, found = _read_lists(root, split, trial)
        scan.findings += found if split in splits else []
        ids[split] = {row.identity for rows in lists.values() for row in rows}
        if split not in splits or len(lists) < len(FOLDERS):
            continue
        scan.findings += check_labels(lists)
        for name, rows in lists.items():
            scan.findings += check_files(root, name, rows)
        visible, thermal = ({row.identity for row in rows} for rows in lists.values())
        lacking = {
            "visible images": sorted(thermal - visible),
            "infrared images": sorted(visible - thermal),
        }
        where = f"the lists idx/{split}_*_{trial}.txt"
        scan.findings += check_modalities(lacking, where, training=split == "train")
        scan.images[split] = image_list(
            root,
            [
                (row.path, row.identity, REGDB.cameras[modality][0], modality)
                for modality, rows in enumerate(lists.values())
                for row in rows
            ],
        )
    scan.findings += check_overlap(ids, lambda split: f"idx/{split}_*_{trial}.txt")
    return scan


def scan_regdb_whole(root: Path) -> Scan:
    """Looks through all ten trials, for the doctor; the images are those of the first."""
    whole = Scan()
    for trial in REGDB_SPLITS:
        scan = scan_regdb(root, SPLITS, trial)
        whole.findings += scan.findings
        if trial == REGDB_SPLITS[0]:
            whole.images = scan.images
            whole.findings += [count_text(*each) for each in scan.images.items()]
        if len(scan.images) == len(SPLITS):
            found = compare("regdb", scan.images["train"], scan.images["test"])
            whole.findings += [
                Finding(each.severity, f"Trial {trial}: {each.what}", each.fix)
                if each.fix
                else each
                for each in found
            ]
    return whole


def _read_lists(
    root: Path, split: str, trial: int
) -> tuple[dict[str, list[Listed]], list[Finding]]:
    """The visible and the thermal list by name, as far as they are there, and the findings."""
    lists = {}
    findings: list[Finding] = []
    for folder, other in (FOLDERS, FOLDERS[::-1]):
        name = f"idx/{split}_{folder.lower()}_{trial}.txt"
        rows, found = read_list(root, name, (other,), f"{folder}/1/x.bmp 0")
        findings += found
        if rows is not None:
            lists[name] = rows
    return lists, findings
