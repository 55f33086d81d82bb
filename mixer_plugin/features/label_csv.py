"""Reads identities, cameras and modalities from a CSV table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError, closest
from mixer_plugin.features.modality import Modality
from mixer_plugin.io.text_file import read_text
from mixer_plugin.io.whole_number import whole_number

COLUMNS = {
    "id": ("id", "ids", "pid", "person_id", "identity"),
    "camera": ("camera", "cam", "cams", "camid", "cam_id", "camera_id"),
    "modality": ("modality", "spectrum"),
    "path": ("path", "paths", "file", "filename"),
    "time": ("time", "timestamp", "seconds"),
    "folder": ("folder", "directory"),
}
MODALITIES = {
    Modality.VISIBLE: ("0", "v", "visible", "rgb", "vis"),
    Modality.INFRARED: ("1", "i", "infrared", "ir", "nir", "thermal"),
}
_BY_WORD = {word: int(modality) for modality, words in MODALITIES.items() for word in words}


@dataclass(frozen=True)
class Labels:
    """The table: ids, cams, modality int64 [N]; paths N strings or None."""

    ids: NDArray[np.int64]
    cams: NDArray[np.int64]
    modality: NDArray[np.int64]
    paths: tuple[str, ...] | None


def read_labels(path: Path) -> Labels:
    """Reads a CSV whose header names id, camera, modality and perhaps path.

    ``COLUMNS`` and ``MODALITIES`` are the words understood, in upper or lower case. Columns come in
    any order; others are ignored, and so are empty lines.

    Args:
        path: UTF-8 text, with a byte order mark or without, comma-separated, a line per image.

    Returns:
        The table.

    Raises:
        MixERValueError: The file cannot be read, a column is missing or named twice, a line has
            another number of cells than the header, or a cell holds no whole number or modality.
            The message names the file and, where there is one, line and column.
    """
    values = read_table(
        path,
        {"id": whole_number, "camera": whole_number, "modality": read_modality, "path": as_it_is},
        needed=("id", "camera", "modality"),
    )
    ids, cams, modality = (np.asarray(values[n], np.int64) for n in ("id", "camera", "modality"))
    return Labels(ids, cams, modality, tuple(values["path"]) if "path" in values else None)


def read_table(
    path: Path, read: Mapping[str, Callable[[str, str], Any]], needed: Collection[str]
) -> dict[str, list[Any]]:
    """Reads the columns of a CSV table by their names, one of ``COLUMNS`` each.

    Args:
        path: As for :func:`read_labels`.
        read: By column, what makes a value of a cell and of its place (file, line and column).
        needed: The columns that must be there.

    Returns:
        The values of each column that the table has, in the order of its lines.

    Raises:
        MixERValueError: As :func:`read_labels`.
    """
    try:
        # Spreadsheets separate columns by tabs in UTF-16.
        text = read_text(path, wide=False)
        return _read(path, csv.reader(io.StringIO(text, newline=""), strict=True), read, needed)
    except (OSError, csv.Error) as error:
        raise MixERValueError(f"{path} cannot be read as a CSV table: {error}.") from error


def _read(
    path: Path,
    lines: Any,
    read: Mapping[str, Callable[[str, str], Any]],
    needed: Collection[str],
) -> dict[str, list[Any]]:
    header: list[str] = next(lines, [])
    places = _places(path, header, read, needed)
    values: dict[str, list[Any]] = {name: [] for name in places}
    for cells in lines:
        if not cells:
            continue
        where = f"{path}, line {lines.line_num}"
        if len(cells) != len(header):
            raise MixERValueError(
                f"{where}: {len(cells)} columns, but the header names {len(header)}."
            )
        for name, place in places.items():
            column = f"{where}, column {header[place].strip()!r}"
            values[name].append(read[name](cells[place].strip(), column))
    return values


def _places(
    path: Path, header: list[str], wanted: Collection[str], needed: Collection[str]
) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    places: dict[str, int] = {}
    for column in wanted:
        words = COLUMNS[column]
        found = [place for place, name in enumerate(names) if name in words]
        if len(found) > 1:
            raise MixERValueError(
                f"{path}, line 1: columns {', '.join(header[place] for place in found)} all name "
                f"{column}; keep one."
            )
        if found:
            places[column] = found[0]
        elif column in needed:
            raise MixERValueError(
                f"{path}, line 1: no column names {column} (any of {', '.join(words)}); the header "
                f"must be comma-separated, it is {','.join(header)!r}."
            )
    return places


def as_it_is(text: str, where: str) -> str:
    """The text of a cell."""
    return text


def read_modality(text: str, where: str) -> int:
    """0 or 1 of a word of ``MODALITIES``; ``MixERValueError`` for any other."""
    if text.lower() not in _BY_WORD:
        raise MixERValueError(f"{where}: {text!r} is no modality.{closest(text.lower(), _BY_WORD)}")
    return _BY_WORD[text.lower()]
