"""Keeps the segments of a store: seals, compacts, repairs. Each returns what the user must know."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mixer_plugin.search.store.database import (
    Database,
    StoreSettings,
    read_counters,
    write_counters,
)
from mixer_plugin.search.store.segments import list_segments, path_of, seal, write_segment


def seal_when_full(database: Database, folder: Path, settings: StoreSettings) -> list[str]:
    """Puts the images after the last segment into segments, once they are enough for one."""
    with database.reading() as connection:
        counters = read_counters(connection)
    if counters.last - counters.sealed < settings.segment:
        return []
    with database.writing() as connection:
        counters = read_counters(connection)
        if counters.last - counters.sealed < settings.segment:
            return []  # another process was faster
        for segment in list_segments(connection):
            query = "SELECT 1 FROM images WHERE row BETWEEN ? AND ? AND modality = ? LIMIT 1"
            place = (segment.first, segment.last, segment.modality)
            if connection.execute(query, place).fetchone() is None:
                connection.execute("DELETE FROM segments WHERE number = ?", (segment.number,))
        trouble = seal(connection, folder, settings, counters.sealed + 1, counters.last)
        write_counters(connection, replace(counters, sealed=counters.last))
    _drop_files(database, folder)
    return _untrained(trouble)


def compact_segments(database: Database, folder: Path, settings: StoreSettings) -> list[str]:
    """Drops what was removed, and makes one segment of each modality, trained anew."""
    with database.writing() as connection:
        counters = read_counters(connection)
        connection.execute("DELETE FROM segments")
        connection.execute("DELETE FROM settings WHERE name LIKE 'trained-%'")
        trouble = seal(connection, folder, settings, 0, counters.last)
        connection.execute("DELETE FROM removals")
        changed = replace(counters, sealed=counters.last, pruned=counters.removal)
        write_counters(connection, changed)
    _drop_files(database, folder)
    database.vacuum()
    return _untrained(trouble)


def repair_segments(
    database: Database, folder: Path, settings: StoreSettings, numbers: Iterable[int]
) -> list[str]:
    """Writes the files of segments anew from the database."""
    with database.writing() as connection:
        listed = {segment.number for segment in list_segments(connection)}
        made = sorted(listed.intersection(numbers))  # the others were compacted meanwhile
        for number in made:
            write_segment(connection, folder, settings, number)
        if made:
            write_counters(connection, read_counters(connection))
    return [f"{path_of(folder, number)} was damaged and has been made anew." for number in made]


def _drop_files(database: Database, folder: Path) -> None:
    """Deletes files of segments that no longer are; readers keep what they have open."""
    with database.writing() as connection:
        listed = {path_of(folder, each.number) for each in list_segments(connection)}
        for file in folder.glob("segment-*.bin"):
            if file not in listed:
                with contextlib.suppress(OSError):
                    file.unlink()


def _untrained(trouble: str | None) -> list[str]:
    if trouble is None:
        return []
    return [f"{trouble} Until compact() can train it, these images are compared one by one."]
