"""``QdrantEngine``: a collection of Qdrant, on a server, in a folder or in memory."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MissingExtraError, MixERValueError
from mixer_plugin.features import Modality
from mixer_plugin.search.engines.client import Client, explained
from mixer_plugin.search.engines.protocol import (
    Labels,
    Match,
    join_chunks,
    read_labels,
    to_chunks,
    write_labels,
)
from mixer_plugin.search.engines.qdrant_filter import to_condition
from mixer_plugin.search.filter_grammar import Expression

_NUMBERS = 2**20  # of vectors in one request: some 20 MB of JSON, servers take 32
_PAGE = 1024  # images whose labels are read at a time
_INDEXED = {"id": "integer", "camera": "integer", "time": "float"}


@dataclass(frozen=True)
class QdrantEngine:
    """A collection of Qdrant.

    A point has one of two named vectors, ``visible`` or ``infrared``: each modality has an index
    of its own, and no search of one meets the other. Distances are inner products.

    Attributes:
        client: A ``qdrant_client.QdrantClient``; that of ``connect`` may be shared by threads.
        name: Name of the collection. The collection ``NAME-manifest`` holds what its vectors mean.
        remote: Whether the client speaks to a server, which takes indexes of payload fields.
    """

    client: Any
    name: str
    remote: bool = False

    most = 16_384
    widest = 65_536
    longest = 2**20

    @classmethod
    def connect(cls, location: str, name: str, **options: Any) -> QdrantEngine:
        """Connects to a server, or opens a folder; the collection need not be there yet.

        Threads may share the client. A folder and ``:memory:`` are Qdrant's local mode, which
        serves one thread at a time: there, calls wait for each other, also those of other engines
        with the same client.

        Args:
            location: URL of a server or cluster, a folder, or ``:memory:``.
            name: Name of the collection.
            options: Options of ``QdrantClient``, such as ``api_key``.

        Raises:
            MissingExtraError: qdrant-client is not installed.
            MixERRuntimeError: Another process has the folder open.
        """
        package = _qdrant()
        errors: tuple[type[Exception], ...] = (
            package.http.exceptions.ApiException,
            package.common.client_exceptions.QdrantException,
            RuntimeError,  # of the local mode
        )
        remote = location.startswith(("http://", "https://"))
        if not remote:
            options = {"force_disable_check_same_thread": True, **options}
        place = "url" if remote else "location" if location == ":memory:" else "path"
        with explained(location, errors):
            client = package.QdrantClient(**{place: location}, **options)
        turn = nullcontext() if remote else threading.RLock()
        return cls(Client(client, location, errors, turn), name, remote)

    def create(self, widths: Mapping[int, int], manifest: bytes) -> None:
        """As of ``Engine``."""
        if self.client.collection_exists(self.name):
            raise MixERValueError(
                f"Collection {self.name!r} is there already; open it with EngineGallery.open, or "
                "choose another name."
            )
        models = _qdrant().models
        beside, chunks = self._beside, to_chunks(manifest)
        if self.client.collection_exists(beside):  # of a creation that was interrupted
            self.client.delete_collection(beside)
        self.client.create_collection(beside, vectors_config={})
        for part, text in enumerate(chunks):
            payload = {"text": text, "parts": len(chunks)}
            point = models.PointStruct(id=part, vector={}, payload=payload)
            self.client.upsert(beside, [point], wait=True)
        vectors = {
            _vector(side): models.VectorParams(size=width, distance=models.Distance.DOT)
            for side, width in widths.items()
        }
        self.client.create_collection(self.name, vectors_config=vectors)
        for field, kind in _INDEXED.items() if self.remote else ():
            self.client.create_payload_index(self.name, field, field_schema=kind, wait=True)

    def manifest(self) -> bytes | None:
        """As of ``Engine``."""
        if not all(map(self.client.collection_exists, (self.name, self._beside))):
            return None
        rows: list[dict[str, Any]] = []
        first = self.client.retrieve(self._beside, [0])
        if first:
            ids = range(int(first[0].payload["parts"]))
            rows = [p.payload for i in ids for p in self.client.retrieve(self._beside, [i])]
        return join_chunks(
            [row["text"] for row in rows], rows[0]["parts"] if rows else 0, self.name
        )

    def upsert(self, vectors: NDArray[np.float32], labels: Sequence[Labels]) -> None:
        """As of ``Engine``."""
        models = _qdrant().models
        size = max(1, _NUMBERS // vectors.shape[1])
        for start in range(0, len(labels), size):
            points = [
                models.PointStruct(
                    id=each.key,
                    vector={_vector(each.modality): vector.tolist()},
                    payload=write_labels(each),
                )
                for vector, each in zip(
                    vectors[start : start + size], labels[start : start + size], strict=True
                )
            ]
            self.client.upsert(self.name, points, wait=True)

    def delete(self, keys: Sequence[int]) -> None:
        """As of ``Engine``."""
        if keys:
            selector = _qdrant().models.PointIdsList(points=[key for key in keys if key >= 0])
            self.client.delete(self.name, selector, wait=True)

    def search(
        self,
        vectors: NDArray[np.float32],
        modality: int,
        limit: int,
        where: Sequence[Expression | None],
        exact: bool,
    ) -> list[list[Match]]:
        """As of ``Engine``; the local mode always compares with every vector."""
        models = _qdrant().models
        requests = [
            models.QueryRequest(
                query=vector.tolist(),
                using=_vector(modality),
                filter=self._filter(own),
                limit=limit,
                params=models.SearchParams(exact=exact),
                with_payload=True,
            )
            for vector, own in zip(vectors, where, strict=True)
        ]
        found = self.client.query_batch_points(self.name, requests) if requests else []
        return [
            [Match(point.score, read_labels(point.id, point.payload)) for point in each.points]
            for each in found
        ]

    def labels(self, where: Expression | None, limit: int | None) -> list[Labels]:
        """As of ``Engine``."""
        found: list[Labels] = []
        start: Any = None
        while limit is None or len(found) < limit:
            points, start = self.client.scroll(
                self.name,
                scroll_filter=self._filter(where),
                limit=_PAGE if limit is None else min(_PAGE, limit - len(found)),
                offset=start,
            )
            found += [read_labels(point.id, point.payload) for point in points]
            if start is None:
                break
        return found

    def vectors(self, keys: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """As of ``Engine``."""
        found = self.client.retrieve(self.name, list(keys), with_payload=False, with_vectors=True)
        return {
            point.id: np.asarray(vector, np.float32)
            for point in found
            for vector in point.vector.values()
        }

    def close(self) -> None:
        """As of ``Engine``."""
        self.client.close()

    def count(self, where: Expression | None) -> int:
        """As of ``Engine``."""
        found = self.client.count(self.name, count_filter=self._filter(where), exact=True)
        return int(found.count)

    @property
    def _beside(self) -> str:
        return f"{self.name}-manifest"

    def _filter(self, where: Expression | None) -> Any:
        models = _qdrant().models
        return None if where is None else models.Filter(must=[to_condition(where, models)])


def _vector(side: int) -> str:
    return Modality(side).name.lower()


def _qdrant() -> Any:
    try:
        return importlib.import_module("qdrant_client")
    except ImportError as error:
        raise MissingExtraError("qdrant-client", "qdrant", "A gallery in Qdrant") from error
