"""What filters and settings read of every image, as arrays that grow without being copied."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.evaluation.settings import Groups
from mixer_plugin.search.filter_grammar import Value, payload_leaves
from mixer_plugin.search.images import Images
from mixer_plugin.search.store.rows import ImageRow

Path = tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """The first ``length`` rows of an array with room for more.

    The longer column that ``extended`` returns writes to the same array, so that a column may be
    extended once only. States are made one after the other, each from the last: that holds.
    """

    room: NDArray[Any]
    length: int

    @classmethod
    def of(cls, values: NDArray[Any]) -> Column:
        """A column without room."""
        return cls(values, len(values))

    @property
    def values(self) -> NDArray[Any]:
        """Its rows, not a copy."""
        return self.room[: self.length]

    def extended(self, more: NDArray[Any]) -> Column:
        """The column with more rows."""
        total, room = self.length + len(more), self.room
        if total > len(room):
            room = np.empty((max(total, 2 * len(room)), *room.shape[1:]), room.dtype)
            room[: self.length] = self.values
        room[self.length : total] = more
        return Column(room, total)


@dataclass(frozen=True)
class PayloadColumn:
    """The values of one name in all payloads.

    Attributes:
        codes: int32, places in ``values``; -1: none.
        values: The distinct values, with their types; grows with the columns that share it.
        places: The place of each value.
    """

    codes: Column
    values: list[Value]
    places: dict[tuple[type, Value], int]

    def extended(self, length: int, found: Mapping[int, Value]) -> PayloadColumn:
        """The column with ``length`` rows in all, and the values of some of the new ones."""
        codes = np.full(length - self.codes.length, -1, np.int32)
        for row, value in found.items():
            place = self.places.setdefault((type(value), value), len(self.values))
            if place == len(self.values):
                self.values.append(value)
            codes[row - self.codes.length] = place
        return replace(self, codes=self.codes.extended(codes))

    def padded(self, length: int) -> NDArray[np.int32]:
        """Its codes, for ``length`` rows."""
        missing = length - self.codes.length
        return np.pad(self.codes.values, (0, missing), constant_values=-1)


_PLAIN: dict[str, Any] = {"rows": np.int64, "ids": np.int64, "cams": np.int64, "modality": np.int64}
_PLAIN |= {"groups": np.int64, "times": np.float64, "alive": np.bool_}


@dataclass(frozen=True)
class Columns:
    """All images of a state. Place 0 holds no image: what refers to a removed image is sent there.

    Attributes:
        rows: int64, the row in the database of each place, ascending from place 1 on.
        ids: int64.
        cams: int64.
        modality: int64.
        groups: int64, the pair of modality and camera of each place, among ``pairs``.
        times: float64, NaN where unknown.
        alive: bool, False once removed, and in place 0.
        payload: By name, the values of payloads.
        pairs: (modality, camera) by group.
    """

    rows: Column
    ids: Column
    cams: Column
    modality: Column
    groups: Column
    times: Column
    alive: Column
    payload: Mapping[Path, PayloadColumn]
    pairs: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return self.rows.length

    def extended(self, images: Sequence[ImageRow]) -> Columns:
        """The columns with more images."""
        numbers = {pair: number for number, pair in enumerate(self.pairs)}
        for image in images:
            numbers.setdefault((image.modality, image.camera), len(numbers))
        new = {
            "rows": [i.row for i in images],
            "ids": [i.id for i in images],
            "cams": [i.camera for i in images],
            "modality": [i.modality for i in images],
            "groups": [numbers[i.modality, i.camera] for i in images],
            "times": [np.nan if i.time is None else i.time for i in images],
            "alive": [True] * len(images),
        }
        found: dict[Path, dict[int, Value]] = {}
        for place, image in enumerate(images, start=len(self)):
            if image.payload is not None:
                for path, value in payload_leaves(json.loads(image.payload)).items():
                    found.setdefault(path, {})[place] = value
        payload = dict(self.payload)
        for path, values in found.items():
            column = payload.get(path) or PayloadColumn(_empty(np.int32), [], {})
            payload[path] = column.extended(len(self) + len(images), values)
        plain = {
            name: getattr(self, name).extended(np.array(values, _PLAIN[name]))
            for name, values in new.items()
        }
        return Columns(**plain, payload=payload, pairs=tuple(numbers))

    def without(self, rows: NDArray[np.int64]) -> Columns:
        """The columns once rows of the database, int64 [M], are gone; unknown rows are ignored."""
        if not len(rows):
            return self
        alive = self.alive.values.copy()
        alive[self.places(rows)] = False
        return replace(self, alive=Column.of(alive))

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of rows of the database, int64 [M], 0 where there is none that is alive."""
        known = self.rows.values
        places = np.minimum(np.searchsorted(known, rows), len(known) - 1)
        found = (known[places] == rows) & self.alive.values[places]
        return np.where(found, places, 0)

    def trimmed(self) -> tuple[Columns, NDArray[np.int64]]:
        """The columns without dead images, and the new place of each old one, 0 for the dead."""
        keep = self.alive.values.copy()
        keep[0] = True
        moved = np.where(keep, np.cumsum(keep) - 1, 0)
        plain: dict[str, Any] = {
            name: Column.of(getattr(self, name).values[keep]) for name in _PLAIN
        }
        payload: dict[Path, PayloadColumn] = {}
        for path, column in self.payload.items():
            codes = column.padded(len(self))[keep]
            used = np.unique(codes[codes >= 0])
            values = [column.values[code] for code in used.tolist()]
            short = np.where(codes >= 0, np.searchsorted(used, codes), -1).astype(np.int32)
            places = {(type(value), value): place for place, value in enumerate(values)}
            payload[path] = PayloadColumn(Column.of(short), values, places)
        return replace(self, **plain, payload=payload), moved

    def images(self, kept: NDArray[np.bool_]) -> Images:
        """The images as settings read them, with those that are not ``kept``, bool [T], removed."""
        modality, camera = np.array(self.pairs, np.int64).reshape(-1, 2).T
        return Images(
            ids=self.ids.values,
            cams=self.cams.values,
            modality=self.modality.values,
            alive=kept,
            paths=None,
            path_keys=(),
            groups=Groups(modality, camera, self.groups.values),
        )


def _empty(kind: Any) -> Column:
    return Column.of(np.empty(0, kind))


# The image of place 0 has group 0, which is the first one's: it is never found.
_NOBODY = {name: Column.of(np.full(1, 0, kind)) for name, kind in _PLAIN.items()}
NO_COLUMNS = Columns(**_NOBODY, payload={}, pairs=((0, 0),))
