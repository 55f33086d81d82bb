"""Findings and folder listings, shared by the checks of all layouts.

Readers raise what is an error, the doctor shows everything, both in the same words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.errors import MixERError, MixERValueError
from mixer_plugin.io.folder import is_litter
from mixer_plugin.io.text_file import read_lines as text_lines

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


@dataclass(frozen=True)
class Finding:
    """One thing found in a data set.

    Attributes:
        severity: ``error`` (training or evaluation would fail or be wrong), ``warning``, ``info``.
        what: What is there and what was expected.
        fix: What to do; empty for ``info``.
    """

    severity: Literal["error", "warning", "info"]
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.what}" + (f" {self.fix}" if self.fix else "")


@dataclass
class Scan:
    """All findings in a data set, and its images.

    Attributes:
        images: The images by split; a split that is not usable is empty or absent.
        findings: What is wrong, and what is worth knowing.
    """

    images: dict[str, ImageList] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def raise_errors(findings: Sequence[Finding], root: str | os.PathLike[str] | None = None) -> None:
    """Raises the errors among the findings as one ``MixERValueError``; does nothing without any.

    Args:
        findings: of any severity.
        root: the data set, named where a finding does not name it.
    """
    errors = [f"{one.what} {one.fix}" for one in dict.fromkeys(findings) if one.severity == "error"]
    if errors:
        named = root is None or str(root) in errors[0]
        raise MixERValueError(("" if named else f"{root}: ") + "\n".join(errors))


def fault_of(error: MixERError) -> Finding:
    """The error as a finding; its last sentence is what to do."""
    what, stop, fix = str(error).rpartition(". ")
    return Finding("error", what + stop.strip(), fix) if what else Finding("error", fix)


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """The findings without repetitions: errors first, then warnings, then the rest."""
    order = ("error", "warning", "info")
    return sorted(dict.fromkeys(findings), key=lambda finding: order.index(finding.severity))


def some(values: Collection[Any], show: int = 5) -> str:
    """The first values and how many more there are: ``1, 2, 3 and 7 more``."""
    shown = [str(value) for value in list(values)[:show]]
    more = len(values) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def list_folder(folder: Path) -> tuple[list[str] | None, Finding | None]:
    """The sorted names in a folder, None if it is missing, and a finding if it is unreadable.

    What systems leave behind (:func:`is_litter`) is passed over.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not is_litter(entry.name)), None
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except OSError as error:
        what = f"{folder} cannot be opened ({error.strerror or error})."
        fix = "Give yourself the right to read and enter it, or copy it again."
        return [], Finding("error", what, fix)


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image; others are passed over."""
    return name.lower().endswith(SUFFIXES) and not is_litter(name)


def read_lines(path: Path, holds: str) -> tuple[list[str] | None, list[Finding]]:
    """The lines of a split file, None if unreadable, and findings that name what it ``holds``."""
    try:
        return text_lines(path, "surrogateescape"), []  # as the names of such files are
    except MixERValueError as error:
        return None, [fault_of(error)]
    except (FileNotFoundError, NotADirectoryError):
        fix = f"Copy it from the release: {holds}."
        return None, [Finding("error", f"{path} is missing.", fix)]
    except OSError as error:
        what = f"{path} cannot be opened ({error.strerror or error})."
        return None, [Finding("error", what, "Give yourself the right to read it.")]


def are(ids: Collection[int]) -> str:
    """``Identity 3 is`` or ``Identities 3, 4 are``."""
    return f"Identity {some(ids)} is" if len(ids) == 1 else f"Identities {some(ids)} are"


def check_overlap(
    ids: Mapping[str, Collection[int]], file_of: Callable[[str], str]
) -> list[Finding]:
    """Errors where two splits share identities; ``file_of`` names a split in a message."""
    findings = []
    for first, second in combinations(ids, 2):
        both = sorted(set(ids[first]) & set(ids[second]))
        if both:
            what = f"Identities in both {file_of(first)} and {file_of(second)}: {some(both)}."
            findings.append(Finding("error", what, "Splits must be disjoint: mend the files."))
    return findings


def check_modalities(
    lacking: Mapping[str, Sequence[int]], where: str, *, training: bool
) -> list[Finding]:
    """Findings on identities that lack a modality.

    Args:
        lacking: Identities without images, by what they lack, such as ``visible images``.
        where: The split file that names them.
        training: Whether that is an error, as in training, or only a warning.
    """
    texts = {name: f"{are(ids)} in {where} but without {name}." for name, ids in lacking.items()}
    found = [text for name, text in texts.items() if lacking[name]]
    if training:
        fix = "Training draws both modalities of every identity: add images or take them out."
        return [Finding("error", text, fix) for text in found]
    fix = "Their queries find no match in the other modality."
    return [Finding("warning", text, fix) for text in found]
