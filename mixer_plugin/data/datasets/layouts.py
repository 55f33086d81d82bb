"""The released layouts by name: detects the layout of a folder and reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mixer_plugin.data.datasets.findings import Finding, list_folder, raise_errors, some
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.llcm import read_llcm
from mixer_plugin.data.datasets.market import read_market
from mixer_plugin.data.datasets.regdb import read_regdb
from mixer_plugin.data.datasets.sysu import read_sysu
from mixer_plugin.errors import MixERValueError, check_name


@dataclass(frozen=True)
class Layout:
    """A released layout.

    Attributes:
        name: The data set's name.
        needs: The parts of its folder: name of a part in messages -> regular expression that a
            file in the root, or in ``idx`` (then with ``idx/`` before its name), must match.
        read: Lists the images of a split.
    """

    name: str
    needs: dict[str, str]
    read: Callable[[str | os.PathLike[str], str], ImageList]


_BOXES = ("bounding_box_train", "query", "bounding_box_test")
_REGDB_LISTS = r"idx/(train|test)_(visible|thermal)_\d+\.txt"
_LLCM_LISTS = r"idx/(train|test)_(vis|nir)\.txt|idx/test_id\.txt"
LAYOUTS = {
    "sysu": Layout("SYSU-MM01", {"exp": "exp", "cam1 ... cam6": r"cam[1-6]"}, read_sysu),
    "regdb": Layout(
        "RegDB",
        {"Visible": "Visible", "Thermal": "Thermal", "idx/train_visible_1.txt …": _REGDB_LISTS},
        read_regdb,
    ),
    "llcm": Layout(
        "LLCM",
        {"vis": "vis|test_vis", "nir": "nir|test_nir", "idx/train_vis.txt …": _LLCM_LISTS},
        read_llcm,
    ),
    "market": Layout("Market-1501", {name: name for name in _BOXES}, read_market),
}


def detect_layout(root: str | os.PathLike[str]) -> str:
    """Returns the layout of a folder, recognised by its files.

    Args:
        root: Folder of a data set; it may lack parts, which readers and the doctor name.

    Returns:
        ``sysu``, ``regdb``, ``llcm`` or ``market``.

    Raises:
        MixERValueError: It has parts of none or of several; the message says what each needs and
            what of it is missing.
    """
    layout, findings = recognise(Path(root).absolute())
    raise_errors(findings)
    assert layout is not None
    return layout


def whole_layout(root: Path) -> str | None:
    """The one layout of which a folder lacks nothing; None where there is no such."""
    names, _ = list_folder(root)
    whole = [] if names is None else [n for n, lacks in _missing(root, names).items() if not lacks]
    return whole[0] if len(whole) == 1 else None


def read_images(
    root: str | os.PathLike[str], split: str, *, layout: str | None = None, trial: int | None = None
) -> ImageList:
    """Lists the images of a split of any of the four data sets.

    Args:
        root: Folder of the data set.
        split: ``train`` or ``test``; SYSU-MM01 also has ``val`` and ``trainval``, Market-1501
            ``query`` and ``gallery``.
        layout: ``sysu``, ``regdb``, ``llcm`` or ``market``; None: by what is there.
        trial: RegDB's split, 1 to 10 (None: 1).

    Returns:
        The images, as ``read_sysu``, ``read_regdb``, ``read_llcm`` or ``read_market`` sort them.

    Raises:
        MixERValueError: Unknown layout or split, a trial for another data set than RegDB, or the
            folder lacks or contradicts something.
    """
    layout = detect_layout(root) if layout is None else layout
    check_layout(layout)
    if trial is None:
        return LAYOUTS[layout].read(root, split)
    if layout != "regdb":
        raise MixERValueError(
            f"Only RegDB has trials; {LAYOUTS[layout].name} was read with trial={trial!r}. "
            "Leave trial=None."
        )
    return read_regdb(root, split, trial)


def check_layout(layout: str) -> None:
    """Raises ``MixERValueError`` for an unknown layout."""
    check_name("layout", layout, LAYOUTS)


def recognise(root: Path) -> tuple[str | None, list[Finding]]:
    """The layout of a folder, or None and the files that each layout lacks."""
    names, closed = list_folder(root)
    if closed:
        return None, [closed]
    if names is None:
        fix = "Give the folder of a data set."
        return None, [Finding("error", f"{root} is not a folder.", fix)]
    missing = _missing(root, names)
    some_of = [name for name, lacks in missing.items() if len(lacks) < len(LAYOUTS[name].needs)]
    # Where parts of several are there, one that is whole is meant.
    whole = [name for name in some_of if not missing[name]]
    for meant in (whole, some_of):
        if len(meant) == 1:
            return meant[0], []
    found = f"parts of {' and '.join(some_of)}" if some_of else "no part of a known data set"
    needs = "; ".join(
        f"{LAYOUTS[name].name} needs {', '.join(LAYOUTS[name].needs)}"
        + (f" (missing: {', '.join(lacks)})" if some_of else "")
        for name, lacks in missing.items()
        if not some_of or name in some_of
    )
    inner = [name for name in names if any(not lacks for lacks in _inside(root / name))]
    hint = f" (did you mean {root / inner[0]}?)" if inner else ""
    fix = f"Give the folder that holds one of these; it has {some(names) or 'nothing'}."
    if some_of:
        fix = "Say which layout is meant."
    return None, [Finding("error", f"{root} has {found}{hint}: {needs}.", fix)]


def _inside(folder: Path) -> list[list[str]]:
    names, closed = list_folder(folder)
    return [] if closed or names is None else list(_missing(folder, names).values())


def _missing(root: Path, names: list[str]) -> dict[str, list[str]]:
    """By layout, the required files that are missing."""
    lists, _ = list_folder(root / "idx")
    there = [*names, *(f"idx/{name}" for name in lists or ())]
    return {
        key: [
            what
            for what, pattern in layout.needs.items()
            if not any(re.fullmatch(pattern, name) for name in there)
        ]
        for key, layout in LAYOUTS.items()
    }
