"""The SQLite file of a store: its tables, and transactions that are there whole or not at all."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.matching.normalized import Lift
from mixer_plugin.search.fitted import GalleryStatistics, statistics_arrays, statistics_from
from mixer_plugin.search.spaces import FeatureSpace

FILE = "store.db"
_FORMAT = "mixer-plugin gallery store 1"
_SECONDS = 600  # that a writer waits for another one: a compaction of millions takes minutes
_IDLE = 16  # connections kept for the next call
# No type of key: SQLite keeps 3 and '3' apart. AUTOINCREMENT: no row number is given out twice.
_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value);
CREATE TABLE counters (version INTEGER, change INTEGER, images INTEGER, next_key INTEGER,
                       last INTEGER, removal INTEGER, sealed INTEGER, pruned INTEGER);
CREATE TABLE images (row INTEGER PRIMARY KEY AUTOINCREMENT, key NOT NULL UNIQUE,
                     id INTEGER, camera INTEGER, modality INTEGER, time REAL, payload TEXT, path);
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB, crc INTEGER);
CREATE TABLE removals (number INTEGER PRIMARY KEY AUTOINCREMENT, row INTEGER);
CREATE TABLE segments (number INTEGER PRIMARY KEY AUTOINCREMENT, modality INTEGER, first INTEGER,
                       last INTEGER, images INTEGER, bytes INTEGER, crc INTEGER);
INSERT INTO counters VALUES (0, 0, 0, 0, 0, 0, 0, 0);
"""


@dataclass(frozen=True)
class Counters:
    """What a transaction sees of the store.

    Attributes:
        version: Number of transactions that changed anything.
        change: Number of calls that added or removed images.
        images: Images that can be found.
        next_key: The least number that was never a key, nor is any above it.
        last: The last row given out; 0: none.
        removal: The last entry of the table of removals.
        sealed: The last row that segments cover.
        pruned: The last removal that a compaction dropped from the table.
    """

    version: int
    change: int
    images: int
    next_key: int
    last: int
    removal: int
    sealed: int
    pruned: int


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """What a store is made with, for good; see ``GalleryStore.create``."""

    rule: str
    factory: str
    calibration: str | None
    parameters: str
    segment: int


@dataclass(frozen=True)
class Fixed:
    """What the first set added fixes: the space of features, and the statistics of the rule."""

    space: FeatureSpace
    statistics: GalleryStatistics


class Database:
    """Connections to the file, for threads: each transaction has one of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._idle: list[sqlite3.Connection] = []
        self._process = os.getpid()
        self._open = True

    @classmethod
    def create(cls, folder: Path, settings: StoreSettings) -> None:
        """Makes the tables.

        Raises:
            MixERValueError: There is a store already.
        """
        database = cls(folder)
        with database.writing() as connection:
            if _has_tables(connection):
                raise MixERValueError(
                    f"{folder} holds a store already; open it with GalleryStore({str(folder)!r})."
                )
            for statement in _TABLES.strip().split(";\n"):
                connection.execute(statement)
            write_setting(connection, "format", _FORMAT)
            write_setting(connection, "settings", json.dumps(asdict(settings)))
        database.close()

    def is_made(self) -> bool:
        """Whether the tables are there; a process may have ended before it made them."""
        with self.reading() as connection:
            made = _has_tables(connection)
        self.close()
        return made

    def settings(self) -> StoreSettings:
        """The settings of the store.

        Raises:
            MixERValueError: The file is no store, or of another version.
        """
        with self.reading() as connection:
            if not _has_tables(connection):
                raise MixERValueError(f"{self.path} holds no store; use GalleryStore.create.")
            written = read_setting(connection, "format")
            if written != _FORMAT:
                raise MixERValueError(
                    f"{self.path} is of format {written!r}; this package reads {_FORMAT!r}. Build "
                    "the store anew from its features."
                )
            return StoreSettings(**json.loads(read_setting(connection, "settings")))

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state from its first query on, whatever others write."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The one transaction that writes; on disk when the block ends, undone when it raises."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def vacuum(self) -> None:
        """Gives the room of dropped rows back to the file system."""
        with self._connection() as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Closes all connections; a search under way in another thread closes its own."""
        self._open = False
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if not self._open:
            raise MixERRuntimeError("The store is closed; open it again with GalleryStore.")
        if self._process != os.getpid():
            raise MixERRuntimeError(
                "The store was opened by another process, and a fork cannot share it; open it "
                "again in this process."
            )
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        except sqlite3.Error as error:
            connection.close()
            raise self._explained(error) from error
        except BaseException:
            connection.close()
            raise
        if self._open and len(self._idle) < _IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = None
        try:
            connection = sqlite3.connect(
                self.path, timeout=_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise self._explained(error) from error
        return connection

    def _explained(self, error: sqlite3.Error) -> Exception:
        text = str(error)
        if "locked" in text:
            return MixERRuntimeError(
                f"Another process has written to {self.path} for {_SECONDS} seconds, and nothing "
                "was done; try again when it is done."
            )
        if "malformed" in text or "not a database" in text:
            return MixERValueError(
                f"{self.path} is damaged ({text}); put a backup of the folder in its place, or "
                "build the store anew from its features."
            )
        return MixERRuntimeError(f"{self.path}: {text}; nothing was changed.")


def read_counters(connection: sqlite3.Connection) -> Counters:
    """The counters; the first query of a transaction chooses the state that it sees."""
    names = ", ".join(each.name for each in fields(Counters))
    return Counters(*connection.execute(f"SELECT {names} FROM counters").fetchone())


def write_counters(connection: sqlite3.Connection, counters: Counters) -> None:
    """Writes the counters with the next version."""
    values = asdict(counters) | {"version": counters.version + 1}
    names = ", ".join(f"{name} = :{name}" for name in values)
    connection.execute(f"UPDATE counters SET {names}", values)


def read_setting(connection: sqlite3.Connection, name: str) -> Any:
    """A setting, or None."""
    found = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    return None if found is None else found[0]


def write_setting(connection: sqlite3.Connection, name: str, value: str | bytes) -> None:
    """Writes or replaces a setting."""
    connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))


def read_fixed(connection: sqlite3.Connection) -> Fixed | None:
    """What the first set fixed, or None before there is one."""
    content = read_setting(connection, "fixed")
    if content is None:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = dict(file)
    erased, related = arrays["widths"].tolist()
    lift = Lift(*arrays["lift"].tolist()) if "lift" in arrays else None
    space = FeatureSpace(erased, None if related < 0 else related, str(arrays["reduction"]) or None)
    return Fixed(space, statistics_from(arrays, lift))


def write_fixed(connection: sqlite3.Connection, fixed: Fixed) -> None:
    """Keeps what the first set fixes."""
    space = fixed.space
    arrays = statistics_arrays(fixed.statistics)
    arrays["widths"] = np.array([space.erased, -1 if space.related is None else space.related])
    arrays["reduction"] = np.array(space.reduction or "")
    if fixed.statistics.lift is not None:
        arrays["lift"] = np.array(fixed.statistics.lift, dtype=np.float64)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    write_setting(connection, "fixed", file.getvalue())


def _has_tables(connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE name = 'counters'"
    return connection.execute(query).fetchone() is not None
