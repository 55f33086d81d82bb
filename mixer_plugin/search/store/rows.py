"""The rows of a store's tables: images, their vectors, and removals."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.search.keys import Key

Rows = NDArray[np.int64]

_FIELDS = "row, key, id, camera, modality, time, payload, path"
_AT_ONCE = 500  # values of one query; SQLite before 3.32 takes 999
CHUNK = 8192


@dataclass(frozen=True)
class ImageRow:
    """An image as the table has it.

    Attributes:
        row: Its number, ascending in the order of adding.
        key: Its key.
        id: The person; below 0: unknown.
        camera: The camera.
        modality: 0 visible, 1 infrared.
        time: Seconds since 1970, or None.
        payload: JSON, or None.
        path: Its path, or None.
    """

    row: int
    key: Key
    id: int
    camera: int
    modality: int
    time: float | None
    payload: str | None
    path: str | None


def insert_images(connection: sqlite3.Connection, images: Sequence[ImageRow]) -> None:
    """Adds images."""
    connection.executemany(
        f"INSERT INTO images ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (i.row, i.key, i.id, i.camera, i.modality, i.time, i.payload, _to_text(i.path))
            for i in images
        ),
    )


def insert_vectors(
    connection: sqlite3.Connection, rows: Rows, vectors: NDArray[np.float32]
) -> None:
    """Adds the vectors of images, float32 [N, D], each with a checksum."""
    contents = (vector.astype("<f4", copy=False).tobytes() for vector in vectors)
    connection.executemany(
        "INSERT INTO vectors VALUES (?, ?, ?)",
        ((row, each, zlib.crc32(each)) for row, each in zip(rows.tolist(), contents, strict=True)),
    )


def delete_rows(connection: sqlite3.Connection, rows: Sequence[int]) -> None:
    """Drops images and vectors, and notes that they are gone."""
    each = [(row,) for row in rows]
    connection.executemany("DELETE FROM images WHERE row = ?", each)
    connection.executemany("DELETE FROM vectors WHERE row = ?", each)
    connection.executemany("INSERT INTO removals (row) VALUES (?)", each)


def rows_of_keys(connection: sqlite3.Connection, keys: Sequence[Key]) -> dict[Key, int]:
    """The rows of those keys that there are."""
    return dict(_select(connection, "SELECT key, row FROM images WHERE key IN", keys))


def images_of_rows(connection: sqlite3.Connection, rows: Sequence[int]) -> dict[int, ImageRow]:
    """The images of rows that there are."""
    found = _select(connection, f"SELECT {_FIELDS} FROM images WHERE row IN", rows)
    return {line[0]: _image(line) for line in found}


def later_images(connection: sqlite3.Connection, row: int) -> Iterator[list[ImageRow]]:
    """The images after a row, in order, in chunks."""
    query = f"SELECT {_FIELDS} FROM images WHERE row > ? ORDER BY row"
    found = connection.execute(query, (row,))
    while lines := found.fetchmany(CHUNK):
        yield [_image(line) for line in lines]


def later_removals(connection: sqlite3.Connection, number: int) -> Rows:
    """The rows that were removed after a removal, int64 [M]."""
    found = connection.execute("SELECT row FROM removals WHERE number > ?", (number,))
    return np.fromiter((row for (row,) in found), np.int64)


def read_vectors(
    connection: sqlite3.Connection, modality: int, first: int, last: int
) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
    """Rows and vectors of the images of a modality from ``first`` to ``last``, in chunks.

    An image whose vector is damaged is left out.

    Yields:
        int64 [N] ascending, and float32 [N, D].
    """
    found = connection.execute(
        "SELECT row, vector, crc FROM vectors JOIN images USING (row) "
        "WHERE row BETWEEN ? AND ? AND modality = ? ORDER BY row",
        (first, last, modality),
    )
    yield from _chunks(found)


def vectors_of_rows(
    connection: sqlite3.Connection, rows: Sequence[int]
) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
    """As ``read_vectors``, of these rows, in any order."""
    yield from _chunks(
        _select(connection, "SELECT row, vector, crc FROM vectors WHERE row IN", rows)
    )


def damaged_keys(connection: sqlite3.Connection) -> list[Key]:
    """The keys of all images whose vectors are damaged or missing; reads every vector."""
    found = connection.execute(
        "SELECT key, vector, crc FROM images LEFT JOIN vectors USING (row) ORDER BY row"
    )
    return [key for key, vector, crc in found if not _whole(vector, crc)]


def _chunks(found: Iterable[Any]) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
    lines = iter(found)
    while chunk := list(islice(lines, CHUNK)):
        whole = [(row, vector) for row, vector, crc in chunk if _whole(vector, crc)]
        if whole:
            rows, contents = zip(*whole, strict=True)
            vectors = np.frombuffer(b"".join(contents), "<f4").reshape(len(rows), -1)
            yield np.array(rows, np.int64), vectors.astype(np.float32, copy=False)


def _whole(vector: Any, crc: Any) -> bool:
    return isinstance(vector, bytes) and zlib.crc32(vector) == crc


def _select(connection: sqlite3.Connection, query: str, values: Sequence[Any]) -> Iterator[Any]:
    for start in range(0, len(values), _AT_ONCE):
        some = values[start : start + _AT_ONCE]
        yield from connection.execute(f"{query} ({', '.join('?' * len(some))})", some)


def _image(line: tuple[Any, ...]) -> ImageRow:
    row, key, id_, camera, modality, time, payload, path = line
    if isinstance(path, bytes):
        path = path.decode("utf-8", "surrogatepass")
    return ImageRow(row, key, id_, camera, modality, time, payload, path)


def _to_text(path: str | None) -> str | bytes | None:
    """A path as SQLite has it: file names that are not UTF-8 as bytes."""
    if path is None or path.isascii():
        return path
    try:
        path.encode()
    except UnicodeEncodeError:
        return path.encode("utf-8", "surrogatepass")
    return path
