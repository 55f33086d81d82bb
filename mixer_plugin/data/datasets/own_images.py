"""Images that come in no released layout: a folder of crops, or a table of paths."""

from __future__ import annotations

import math
import os
import posixpath
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.datasets.findings import SUFFIXES, is_image, some
from mixer_plugin.data.datasets.image_checks import told_by_pixels
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.errors import MixERValueError, MixERWarning, check_name
from mixer_plugin.features.label_csv import MODALITIES, as_it_is, read_modality, read_table
from mixer_plugin.features.modality import Modality
from mixer_plugin.io.folder import find_repeated, is_litter
from mixer_plugin.io.whole_number import whole_number

UNKNOWN = -1  # identity: such images are no query and no positive in any protocol
TOLD = ("visible", "infrared", "auto")
_WORDS = {w: int(m) for m, words in MODALITIES.items() for w in words if len(w) > 1}
_CAMERA = re.compile(r"(?:camera|cam|c)[-_]?([0-9]{1,9})", re.IGNORECASE)
_IDENTITY = re.compile(r"(?:person|pid|id)?[-_]?([0-9]{1,18})", re.IGNORECASE)
_NAME = re.compile(r"(-?[0-9]{1,18})_c([0-9]{1,9})(?![0-9])")  # 0002_c1s1_000451_03.jpg


@dataclass(frozen=True)
class OwnImages:
    """Images that are in no released layout, as ``read_own_images`` lists them.

    Attributes:
        images: The n images; the identity is -1 where the person is unknown.
        times: float64 [n], seconds since 1970, NaN where unknown; None where all are unknown.
    """

    images: ImageList
    times: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class _Row:
    """What is known of one image; ``path`` is relative to the source's folder."""

    path: str
    identity: int = UNKNOWN
    camera: int | None = None
    modality: int | None = None
    time: float = math.nan


def read_own_images(
    source: str | os.PathLike[str],
    *,
    modality: str | None = None,
    cameras: str | os.PathLike[str] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> OwnImages:
    """Lists the images of a folder or of a CSV table.

    A folder is searched with all its sub-folders for files named ``.jpg``, ``.jpeg``, ``.png`` or
    ``.bmp``. The names of sub-folders give labels: ``visible``, ``rgb``, ``infrared``, ``thermal``
    … the modality, ``cam3`` the camera, ``0012`` or ``id12`` the identity. A file name such as
    ``0002_c1s1_000451_03.jpg`` gives identity and camera. A table has a header with the column
    ``path`` (relative to the table's folder) and, in any order, those of ``id``, ``camera``,
    ``modality`` and ``time`` that are known (time in seconds since 1970, or ISO 8601, which is UTC
    without an offset); cells may be empty.

    Args:
        source: The folder, or the table.
        modality: Modality of the images whose labels do not say it: ``visible``, ``infrared``, or
            ``auto``: told by their pixels (grey is infrared), with a warning.
        cameras: CSV that gives the modality of each camera (columns ``camera`` and ``modality``) or
            of each sub-folder (``folder``, its name or path, ``modality`` and, if known,
            ``camera``).
        workers: Threads that read pixels for ``modality="auto"``.
        progress: Called with (images read, images in all) while pixels are read.

    Returns:
        The images, in the order of the table or of their paths. Where no camera is known, visible
        images get camera 1 and infrared ones camera 2, as RegDB's.

    Raises:
        MixERValueError: There is no image, a file is missing or named twice, a modality is unknown
            or contradicted, cameras are known of some images only, or an option would change
            nothing.
        MissingExtraError: Pillow is not installed (``modality="auto"`` alone needs it).
    """
    if modality is not None:
        check_name("modality", modality, TOLD)
    source = Path(os.path.abspath(source))
    if is_image(source.name) and source.is_file():
        raise MixERValueError(f"{source} is one image; give its folder, or a CSV that names it.")
    table = source.is_file()
    root = source.parent if table else source
    rows = list(_read_csv(source) if table else _read_folder(source))
    if not rows:
        raise MixERValueError(
            f"{source} has no image; expected "
            + ("a line per image." if table else f"files that end in {', '.join(SUFFIXES)}.")
        )
    if cameras is not None:
        rows = _with_table(rows, Path(cameras))
    if modality is not None:
        rows = _with_modality(rows, root, modality, workers, progress)
    _check_known(rows, source)
    columns = (
        [row.identity for row in rows],
        [1 + int(row.modality or 0) if row.camera is None else row.camera for row in rows],
        [row.modality for row in rows],
    )
    paths = tuple(str(root / row.path) for row in rows)
    if pairs := find_repeated(paths):
        twice = [f"{paths[row]} is {paths[first]}" for first, row in pairs]
        raise MixERValueError(
            f"{source}: the same file is there twice: {some(twice)}. An image counts once: keep "
            "one name of each."
        )
    images = ImageList(root, paths, *(np.asarray(column, np.int64) for column in columns))
    times = np.asarray([row.time for row in rows])
    return OwnImages(images, None if np.isnan(times).all() else times)


def _read_folder(root: Path) -> Iterator[_Row]:
    """The images below a folder, with what the names of folders and files say."""
    if not root.is_dir():
        raise MixERValueError(f"{root} is no folder and no table (CSV).")
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = sorted(name for name in below if not is_litter(name)) if real not in seen else []
        if real in seen:  # a link to a folder above it
            continue
        seen.add(real)
        for name in sorted(filter(is_image, files)):
            yield _by_names(Path(os.path.relpath(os.path.join(folder, name), root)).as_posix())


def _by_names(path: str) -> _Row:
    *folders, name = path.split("/")
    told = {_WORDS[each.lower()] for each in folders if each.lower() in _WORDS}
    if len(told) > 1:
        raise MixERValueError(
            f"{path}: its folders name both modalities. Rename one, or give a CSV of the images."
        )
    found = _NAME.match(name)
    identity, camera = (int(found[1]), int(found[2])) if found else (UNKNOWN, None)
    for each in folders:
        if cam := _CAMERA.fullmatch(each):
            camera = int(cam[1])
        elif who := _IDENTITY.fullmatch(each):
            identity = int(who[1])
    return _Row(path, identity, camera, min(told, default=None))


def _read_csv(path: Path) -> Iterator[_Row]:
    def known(text: str, where: str) -> int | None:
        return whole_number(text, where) if text else None

    def person(text: str, where: str) -> int:
        return UNKNOWN if text in ("", "?") else whole_number(text, where)

    def side(text: str, where: str) -> int | None:
        return read_modality(text, where) if text else None

    read = {"path": as_it_is, "id": person, "camera": known, "modality": side, "time": _seconds}
    values = read_table(path, read, needed=("path",))
    values["path"] = [each.replace("\\", "/") for each in values["path"]]
    missing = [each for each in values["path"] if not (path.parent / each).is_file()]
    if missing:
        raise MixERValueError(
            f"{path} names files that are not there: {some(missing)}. Paths are relative to "
            f"{path.parent}."
        )
    fields = {"path": "path", "id": "identity", "camera": "camera"}
    fields |= {"modality": "modality", "time": "time"}
    names = [fields[name] for name in values]
    for cells in zip(*values.values(), strict=True):
        yield _Row(**dict(zip(names, cells, strict=True)))


def _seconds(text: str, where: str) -> float:
    """Seconds since 1970 of a number or a date."""
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
            value = (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
        except (ValueError, OverflowError):
            raise MixERValueError(
                f"{where}: {text!r} is no time; expected seconds or 2026-11-28T14:03:05."
            ) from None
    if not math.isfinite(value):
        raise MixERValueError(f"{where}: {text!r} is no time; leave the cell empty where unknown.")
    return value


def _with_table(rows: Sequence[_Row], path: Path) -> list[_Row]:
    """Rows with the modality, and the camera, that a table of cameras gives."""
    read = {"camera": whole_number, "modality": read_modality, "folder": as_it_is}
    table = read_table(path, read, needed=("modality",))
    keys = table.get("folder") or table.get("camera")
    if keys is None:
        raise MixERValueError(f"{path} must have a column camera or folder beside modality.")
    by_folder = "folder" in table
    if by_folder:
        keys = [posixpath.normpath(str(each).replace("\\", "/")) for each in keys]
    if twice := sorted({str(each) for each in keys if keys.count(each) > 1}):
        raise MixERValueError(f"{path} has {some(twice)} in several lines; keep one of each.")
    sides = dict(zip(keys, table["modality"], strict=True))
    numbers = dict(zip(keys, table["camera"], strict=True)) if "camera" in table else {}
    used, told = False, []
    for row in rows:
        key = _folder_of(row.path, sides) if by_folder else row.camera
        if key in sides and row.modality not in (None, sides[key]):
            raise MixERValueError(
                f"{path} says of {key!r} another modality than {row.path} has by its name or line."
            )
        if key in sides:
            new = replace(row, modality=sides[key], camera=numbers.get(key, row.camera))
            used, row = used or new != row, new
        told.append(row)
    if not used:
        raise MixERValueError(
            f"{path} says nothing new of any image: it names {some(keys)}. Leave it out, or write "
            "the cameras or folders as the images have them."
        )
    return told


def _folder_of(path: str, known: dict[str, int]) -> str | None:
    """The longest of the known folders that an image lies in, by path or by name."""
    folders = path.split("/")[:-1]
    for end in range(len(folders), 0, -1):
        for key in ("/".join(folders[:end]), folders[end - 1]):
            if key in known:
                return key
    return None


def _with_modality(
    rows: Sequence[_Row],
    root: Path,
    modality: str,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[_Row]:
    """Rows with the modality that is given for those that say none."""
    silent = [row for row in rows if row.modality is None]
    if not silent:
        raise MixERValueError(
            f"modality={modality!r} would change nothing: folders, table or cameras give the "
            "modality of every image. Leave it out."
        )
    if modality != "auto":
        side = int(Modality[modality.upper()])
        return [replace(row, modality=side) if row.modality is None else row for row in rows]
    paths = [str(root / row.path) for row in silent]
    sides, unsure = told_by_pixels(paths, workers, progress)
    between = [paths[row] for row in np.flatnonzero(unsure)]
    warnings.warn(
        f"The modality of {len(silent)} images was told by their pixels: "
        f"{int((sides == 0).sum())} coloured (visible), {int(sides.sum())} grey (infrared)"
        + (f"; {len(between)} lie between, such as {between[0]}" if between else "")
        + ". A camera at night is grey and visible all the same: where that may be, give a table "
        "of cameras.",
        MixERWarning,
        stacklevel=3,
    )
    told = iter(sides.tolist())
    return [replace(row, modality=next(told)) if row.modality is None else row for row in rows]


def _check_known(rows: Sequence[_Row], source: Path) -> None:
    silent = [row.path for row in rows if row.modality is None]
    if silent:
        raise MixERValueError(
            f"{source}: nothing says the modality of {len(silent)} of {len(rows)} images, such as "
            f"{silent[0]}. Put them into folders visible and infrared, give a CSV of the images "
            "with a column modality, a table of cameras (--cameras), or --modality visible, "
            "infrared or auto."
        )
    nowhere = [row.path for row in rows if row.camera is None]
    if nowhere and len(nowhere) < len(rows):
        raise MixERValueError(
            f"{source}: {len(nowhere)} of {len(rows)} images have no camera, such as {nowhere[0]}, "
            "and the others have one. Give all of them one, or none."
        )
