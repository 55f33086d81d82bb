"""A feature file that is written as it goes, and goes on after an interruption.

Rows are appended to plain files in a folder beside the file. Once all are there, they become an
``.npz``, byte by byte the one that ``FeatureSet.save`` writes, without being held in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.io.atomic_write import atomic_write, write_json
from mixer_plugin.io.text_file import read_text

_VERSION = 1
_KEY = 16  # bytes
_COPIED = 2**22  # bytes at a time
_OURS = re.compile(r"\d+-of-\d+\.(json|keys|erased|related)")


def part_folder(target: Path) -> Path:
    """Where the rows of a file are kept until it is whole: ``NAME.npz.part``."""
    return target.with_name(f"{target.name}.part")


def check_target(target: Path) -> None:
    """Raises ``MixERValueError`` unless a feature file of this name can be written."""
    if target.suffix != ".npz":
        raise MixERValueError(f"out is {str(target)!r}; expected the name of a .npz file.")
    if not target.parent.is_dir():
        raise MixERValueError(f"{target.parent} is not a folder; create it first.")


def image_keys(paths: Sequence[str], modality: NDArray[np.int64], rows: range) -> NDArray[np.uint8]:
    """A hash [R, 16] of each of some images: its path, size, time of change and modality.

    Raises:
        OSError: A file is not there.
    """
    found = []
    for row in rows:
        state = os.stat(paths[row])
        text = f"{paths[row]}\0{state.st_size}\0{state.st_mtime_ns}\0{modality[row]}"
        found.append(hashlib.blake2b(os.fsencode(text), digest_size=_KEY).digest())
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, _KEY)


class GrowingRows:
    """The rows of one process: those that an earlier run left, and those that are appended.

    Attributes:
        done: Rows that are there.
    """

    def __init__(self, folder: Path, name: str, mark: str, keys: NDArray[np.uint8]) -> None:
        self._folder, self._name, self._mark, self._keys = folder, name, mark, keys
        self._files: dict[str, IO[bytes]] = {}
        self._widths: dict[str, int | None] | None = None
        self.done = 0

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._name}.{kind}"

    def resume(self, batch: int) -> None:
        """Keeps what an earlier run with the same mark left of the same images, in whole batches.

        Args:
            batch: Rows that are appended at once.
        """
        self._widths = _read_card(self._path("json"), self._mark)
        kept, bytes_of = 0, {}
        if self._widths is not None:
            bytes_of = {"keys": _KEY, **{k: 4 * w for k, w in self._widths.items() if w}}
            kept = min(_size(self._path(kind)) // each for kind, each in bytes_of.items())
            kept = min(kept, len(self._keys))
            held = np.fromfile(self._path("keys"), np.uint8, kept * _KEY).reshape(-1, _KEY)
            other = np.flatnonzero((held != self._keys[:kept]).any(axis=1))
            kept = int(other[0]) if len(other) else kept
            if kept < len(self._keys):
                kept -= kept % batch
        if kept == 0:
            for kind in ("json", "keys", "erased", "related"):
                self._path(kind).unlink(missing_ok=True)
            self._widths = None
        else:  # half a row, or half a batch, of a run that was killed
            for kind, each in bytes_of.items():
                os.truncate(self._path(kind), kept * each)
        self.done = kept

    def append(self, erased: NDArray[np.float32], related: NDArray[np.float32] | None) -> None:
        """Appends rows of the next images.

        Args:
            erased: float32 [R, De].
            related: float32 [R, Dr], or None.

        Raises:
            MixERRuntimeError: They are not as wide as those before.
            OSError: They cannot be written.
        """
        columns = {"erased": erased, "related": related}
        widths = {name: None if x is None else x.shape[1] for name, x in columns.items()}
        if self._widths is None:
            self._folder.mkdir(exist_ok=True)
            card = {"version": _VERSION, "mark": self._mark, "widths": widths}
            write_json(self._path("json"), card, indent=None)
            self._widths = widths
        if widths != self._widths:
            raise MixERRuntimeError(
                f"The model gave features of widths {widths} after {self._widths}; expected the "
                "same for every batch."
            )
        end = self.done + len(erased)
        values: dict[str, Any] = {**columns, "keys": self._keys[self.done : end]}
        for kind, value in values.items():
            if value is not None:
                file = self._open(kind)
                file.write(np.ascontiguousarray(value).data)
                file.flush()
        self.done = end

    def _open(self, kind: str) -> IO[bytes]:
        if kind not in self._files:
            self._files[kind] = self._path(kind).open("ab")
        return self._files[kind]

    def close(self) -> None:
        """Closes the files; the rows stay."""
        for file in self._files.values():
            file.close()
        self._files.clear()


@contextmanager
def open_rows(
    target: Path,
    mark: str,
    keys: NDArray[np.uint8],
    batch: int,
    share: tuple[int, int] = (0, 1),
) -> Iterator[GrowingRows]:
    """The rows of one process, to append to.

    Args:
        target: The file that they are for.
        mark: Hash of all that the features depend on beside the images.
        keys: uint8 [n, 16], a hash of each image of this process.
        batch: Rows that are appended at once: an earlier run's are kept in whole batches.
        share: Number of this process, and how many there are.
    """
    rows = GrowingRows(part_folder(target), "{}-of-{}".format(*share), mark, keys)
    rows.resume(batch)
    try:
        yield rows
    finally:
        rows.close()


def join_rows(
    target: Path,
    processes: int,
    labels: Mapping[str, NDArray[Any]],
    paths: Sequence[str],
) -> dict[str, int | None]:
    """Makes the file of the rows that all processes have left, and removes those.

    Args:
        target: The ``.npz``.
        processes: How many there were.
        labels: By name, arrays [N]: ids, cams, modality, and what else is to be kept.
        paths: N image paths.

    Returns:
        The width of each feature; None where there is none.

    Raises:
        MixERRuntimeError: Rows are missing.
        OSError: The file cannot be written; the rows stay.
    """
    folder, count = part_folder(target), len(paths)
    names = [f"{number}-of-{processes}" for number in range(processes)]
    cards = [_read_card(folder / f"{name}.json") for name in names]
    widths = next((card for card in cards if card is not None), None)
    if widths is None or any(card not in (None, widths) for card in cards):
        raise MixERRuntimeError(
            f"{folder} lacks the rows of a process, or they differ in width. Several machines must "
            "write to a folder that they share."
        )
    with atomic_write(target) as file, ZipFile(file, "w", ZIP_STORED) as archive:
        for kind, width in widths.items():
            if width is None:
                continue
            sources = [folder / f"{name}.{kind}" for name in names]
            if sum(map(_size, sources)) != 4 * width * count:
                raise MixERRuntimeError(
                    f"{folder} does not hold {count} rows of {kind} features. Several machines "
                    "must write to a folder that they share; run the same command again."
                )
            with _member(archive, kind, (count, width), np.dtype(np.float32)) as member:
                for source in filter(_size, sources):
                    with source.open("rb") as held:
                        shutil.copyfileobj(held, member, _COPIED)
        columns = {name: labels[name] for name in ("ids", "cams", "modality")}
        columns["paths"] = np.asarray(paths, dtype=np.str_)
        for name, array in {**columns, **labels}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)
    _remove(folder)
    return widths


def _read_card(path: Path, mark: str | None = None) -> dict[str, int | None] | None:
    """Widths of the rows that a card vouches for; None where it is of another mark or damaged."""
    try:
        card = json.loads(read_text(path))
        if card["version"] != _VERSION or mark not in (None, card["mark"]):
            return None
        widths = {name: card["widths"][name] for name in ("erased", "related")}
    except (OSError, ValueError, LookupError, TypeError, MixERValueError):
        return None
    return widths if all(w is None or isinstance(w, int) for w in widths.values()) else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def _member(
    archive: ZipFile, name: str, shape: tuple[int, ...], kind: np.dtype
) -> Iterator[IO[bytes]]:
    """A member that begins with the header of an array, as ``numpy.savez`` writes it."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(member, header)
        yield member


def _remove(folder: Path) -> None:
    """Removes the rows, and the folder where nothing else is in it."""
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()
