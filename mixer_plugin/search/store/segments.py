"""Segments: files of the vectors of many images, so that opening a store reads no row of them.

A file holds two arrays of NumPy's format, one after the other: the rows of the database, int64 [N],
and either vectors, float32 [N, D], or the bytes of a FAISS index, uint8. The database knows its
size and checksum. It can be made anew from the database at any time.
"""

from __future__ import annotations

import itertools
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import Modality
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.search.faiss_index import SubIndex
from mixer_plugin.search.gpu import import_faiss
from mixer_plugin.search.store.database import StoreSettings, read_setting, write_setting
from mixer_plugin.search.store.exact import ExactPart
from mixer_plugin.search.store.rows import CHUNK, Rows, read_vectors

Part: TypeAlias = ExactPart | SubIndex

_BYTES = 1 << 24  # read at a time for a checksum
_TRAINING = 1 << 18  # vectors at most that FAISS is trained on


@dataclass(frozen=True)
class SegmentRow:
    """A segment as the database has it: images of one modality in a range of rows.

    Attributes:
        number: Its number, never given out twice.
        modality: 0 visible, 1 infrared.
        first: The first row of the range.
        last: The last row of the range.
        images: Images in the file.
        bytes: Size of the file.
        crc: CRC32 of the file.
    """

    number: int
    modality: int
    first: int
    last: int
    images: int
    bytes: int
    crc: int


def list_segments(connection: sqlite3.Connection) -> list[SegmentRow]:
    """The segments in the order of their numbers."""
    fields = "number, modality, first, last, images, bytes, crc"
    found = connection.execute(f"SELECT {fields} FROM segments ORDER BY number")
    return [SegmentRow(*line) for line in found]


def path_of(folder: Path, number: int) -> Path:
    """The file of a segment."""
    return folder / f"segment-{number}.bin"


def load_segment(folder: Path, segment: SegmentRow) -> tuple[Rows, Part]:
    """The rows of a segment and its part, whose keys are still to be set.

    Raises:
        MixERValueError: The file is missing or damaged.
    """
    path = path_of(folder, segment.number)
    try:
        if path.stat().st_size != segment.bytes or _checksum(path) != segment.crc:
            raise ValueError("its checksum differs from the one written")
        with path.open("rb") as file:
            rows = np.load(file, allow_pickle=False)
            content = _mapped(path, file)
        if content.dtype == np.uint8:
            return rows, SubIndex(import_faiss().deserialize_index(content), rows)
    except (OSError, ValueError, RuntimeError) as error:
        raise MixERValueError(f"{path} is damaged ({error}).") from error
    return rows, ExactPart(content, rows)


def read_segment(connection: sqlite3.Connection, segment: SegmentRow) -> tuple[Rows, Part]:
    """What ``load_segment`` gives, from the database, exact; for a file that is damaged."""
    chunks = list(_chunks(connection, segment.modality, segment.first, segment.last)())
    if not chunks:
        return np.empty(0, np.int64), ExactPart(np.empty((0, 0), np.float32), np.empty(0, np.int64))
    rows, vectors = (np.concatenate(each) for each in zip(*chunks, strict=True))
    return rows, ExactPart(vectors, rows)


def seal(
    connection: sqlite3.Connection, folder: Path, settings: StoreSettings, first: int, last: int
) -> str | None:
    """Adds a segment of each modality's images in a range of rows, and their files.

    Returns:
        Why FAISS could not be trained, so that the segment is exact, or None.
    """
    trouble = None
    for side in map(int, Modality):
        number = connection.execute(
            "INSERT INTO segments (modality, first, last) VALUES (?, ?, ?)", (side, first, last)
        ).lastrowid
        assert number is not None
        trouble = write_segment(connection, folder, settings, number) or trouble
    return trouble


def write_segment(
    connection: sqlite3.Connection, folder: Path, settings: StoreSettings, number: int
) -> str | None:
    """Writes the file of a segment that the database lists, or drops it if it has no images.

    Returns:
        As of ``seal``.
    """
    side, first, last = connection.execute(
        "SELECT modality, first, last FROM segments WHERE number = ?", (number,)
    ).fetchone()
    chunks = _chunks(connection, side, first, last)
    rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in chunks())])
    if not len(rows):
        connection.execute("DELETE FROM segments WHERE number = ?", (number,))
        return None
    path, index, trouble = path_of(folder, number), None, None
    if settings.factory != "Flat":
        try:
            index = _filled(connection, settings, side, chunks)
        except (MixERValueError, RuntimeError) as error:  # the second: of vectors in order
            trouble = str(error)
    with atomic_write(path) as file:
        np.save(file, rows)
        if index is not None:
            np.save(file, import_faiss().serialize_index(index))
        else:
            width = next(chunks())[1].shape[1]
            _save_vectors(file, (vectors for _, vectors in chunks()), (len(rows), width))
    connection.execute(
        "UPDATE segments SET images = ?, bytes = ?, crc = ? WHERE number = ?",
        (len(rows), path.stat().st_size, _checksum(path), number),
    )
    return trouble


Chunks = Callable[[], Iterator[tuple[Rows, NDArray[np.float32]]]]


def _chunks(connection: sqlite3.Connection, side: int, first: int, last: int) -> Chunks:
    return lambda: read_vectors(connection, side, first, last)


def _filled(
    connection: sqlite3.Connection, settings: StoreSettings, side: int, chunks: Chunks
) -> Any:
    """A FAISS index of the vectors, trained on the first segment of the modality that could."""
    faiss, name = import_faiss(), f"trained-{side}"
    kept = read_setting(connection, name)
    if kept is None:
        first = np.concatenate([v for _, v in itertools.islice(chunks(), _TRAINING // CHUNK)])
        what = Modality(side).name.lower()
        index = SubIndex.trained(settings.factory, settings.parameters, first, what).index
        write_setting(connection, name, faiss.serialize_index(index).tobytes())
    else:
        index = faiss.deserialize_index(np.frombuffer(kept, np.uint8))
    for _, vectors in chunks():
        index.add(vectors)
    return index


def _save_vectors(
    file: IO[bytes], chunks: Iterator[NDArray[np.float32]], shape: tuple[int, int]
) -> None:
    """What ``numpy.save`` writes, without the whole array in memory."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for vectors in chunks:
        file.write(np.ascontiguousarray(vectors, "<f4").data)


def _mapped(path: Path, file: IO[bytes]) -> NDArray[Any]:
    """The array that begins where the file is read, mapped into memory."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its second array is of another version")
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    return np.asarray(np.memmap(path, kind, "r", offset=file.tell(), shape=shape))


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BYTES):
            crc = zlib.crc32(block, crc)
    return crc
