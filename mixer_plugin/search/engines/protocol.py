"""What a vector engine has to do, and nothing of how a score is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.filter_grammar import Expression

CHUNK = 40_000  # bytes of a manifest that are stored as one text


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is kept of an image beside its vector.

    Attributes:
        key: Its number in the collection, from 0 on.
        id: The person; below 0: unknown.
        camera: Camera.
        modality: 0 visible, 1 infrared.
        time: Seconds since 1970, or None.
        path: Of its file, or None.
        payload: Whatever else: text, numbers, true and false by name, also within each other.
            Lists and null, which no filter compares, are no part of it.
    """

    key: int
    id: int
    camera: int
    modality: int
    time: float | None
    path: str | None
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Match:
    """An image that a search found: its inner product with the query, and its labels."""

    score: float
    labels: Labels


class Engine(Protocol):
    """One collection of an engine: vectors of images of two modalities, searched one at a time.

    Attributes:
        most: Matches that one search can ask for.
        widest: Dimensions that a vector can have.
        longest: Bytes that a path can have, or a payload as JSON.
    """

    most: int
    widest: int
    longest: int

    def create(self, widths: Mapping[int, int], manifest: bytes) -> None:
        """Makes an empty collection of vectors of these widths by modality, and its manifest.

        Raises:
            MixERValueError: There is such a collection.
        """

    def manifest(self) -> bytes | None:
        """What ``create`` was given; None where there is no such collection, or no manifest.

        Raises:
            MixERValueError: Parts of the manifest are missing.
        """

    def upsert(self, vectors: NDArray[np.float32], labels: Sequence[Labels]) -> None:
        """Adds images of one modality, vectors float32 [N, D]; those that are there are replaced.

        Once it returns, every search finds them.
        """

    def delete(self, keys: Sequence[int]) -> None:
        """Deletes images; keys that are not there are passed over."""

    def search(
        self,
        vectors: NDArray[np.float32],
        modality: int,
        limit: int,
        where: Sequence[Expression | None],
        exact: bool,
    ) -> list[list[Match]]:
        """For each query, the images of a modality with the largest inner products, best first.

        Args:
            vectors: float32 [Q, D].
            modality: Of the images.
            limit: Length of the lists, at most ``most``.
            where: What each query may find; None: everything. It is applied before the limit.
            exact: Whether the engine compares with every vector, where it can.
        """

    def labels(self, where: Expression | None, limit: int | None) -> list[Labels]:
        """The first images that a filter keeps, of both modalities, in the order of keys.

        Args:
            where: None: all.
            limit: How many at most; None: all.
        """

    def vectors(self, keys: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """By key, the vectors of those images that are there, float32 [D] or longer.

        What is behind the D numbers of an image's vector is padding.
        """

    def close(self) -> None:
        """Ends the connection."""

    def count(self, where: Expression | None) -> int:
        """Number of images that a filter keeps, of both modalities; None: of all."""


def to_chunks(manifest: bytes) -> list[str]:
    """Texts of a manifest, each short enough for one field of any engine."""
    text = manifest.decode("ascii")
    return [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]


def join_chunks(texts: Sequence[str], parts: int, name: str) -> bytes | None:
    """What ``to_chunks`` took apart; None where there is none of it.

    Raises:
        MixERValueError: Some of the parts are missing.
    """
    if not texts:
        return None
    if len(texts) != parts:
        raise MixERValueError(
            f"The manifest of collection {name!r} has {len(texts)} of its {parts} parts: its "
            "statistics are not complete. Make the collection anew from its features."
        )
    return "".join(texts).encode("ascii")


def write_labels(labels: Labels) -> dict[str, Any]:
    """Labels as JSON, without the key and what is None."""
    known = {"time": labels.time, "path": labels.path}
    return {
        "id": labels.id,
        "camera": labels.camera,
        "modality": labels.modality,
        **{name: value for name, value in known.items() if value is not None},
        "payload": dict(labels.payload),
    }


def read_labels(key: int, written: Mapping[str, Any]) -> Labels:
    """Labels that ``write_labels`` wrote."""
    return Labels(**{"time": None, "path": None, **written, "key": key})
