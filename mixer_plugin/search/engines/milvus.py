"""``MilvusEngine``: a collection of Milvus, on a server or cluster, or in a file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MissingExtraError, MixERValueError
from mixer_plugin.search.engines.client import Client, explained
from mixer_plugin.search.engines.milvus_filter import kinds, to_milvus
from mixer_plugin.search.engines.protocol import (
    Labels,
    Match,
    join_chunks,
    read_labels,
    to_chunks,
    write_labels,
)
from mixer_plugin.search.filter_grammar import Expression

_NUMBERS = 2**22  # of vectors in one request: 16 MB, servers take 64
_QUERIES = 1024
_PAGE = 1024  # images whose labels are read at a time
_LONGEST = 65_535  # bytes of a text
_OUTPUT = ["key", "person", "camera", "modality", "time", "timed", "path", "payload"]


@dataclass(frozen=True)
class MilvusEngine:
    """A collection of Milvus.

    Both modalities share one vector field, zeros behind the shorter vectors, and the modality is
    part of each search's filter. The metric is the inner product; scores are Milvus' own.

    Attributes:
        client: A ``pymilvus.MilvusClient``.
        name: Name of the collection. The collection ``NAME_manifest`` holds what its vectors mean.
        index: Kind of index that ``create`` makes: ``FLAT`` is exact, others approximate.
        index_params: Its parameters, such as ``{"nlist": 64}``.
        search_params: For approximate searches, such as ``{"nprobe": 8}``.
    """

    client: Any
    name: str
    index: str = "FLAT"
    index_params: Mapping[str, Any] = field(default_factory=dict)
    search_params: Mapping[str, Any] = field(default_factory=dict)

    most = 16_384
    widest = 32_768
    longest = _LONGEST

    @classmethod
    def connect(
        cls,
        location: str,
        name: str,
        *,
        index: str = "FLAT",
        index_params: Mapping[str, Any] | None = None,
        search_params: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> MilvusEngine:
        """Connects to a server, or opens a file; the collection need not be there yet.

        Threads may share the client, also that of a file.

        Args:
            location: URL of a server or cluster, or a file that ends in ``.db`` (needs
                milvus-lite).
            name: Name of the collection: letters, digits and underscores.
            index: As of the class, like the two below.
            index_params: Parameters of the index.
            search_params: Parameters of a search.
            options: Options of ``MilvusClient``, such as ``token``.

        Raises:
            MissingExtraError: pymilvus is not installed.
            MixERRuntimeError: The server does not answer or refuses, or the file cannot be opened.
        """
        errors = (_milvus().MilvusException,)
        with explained(location, errors):
            client = _milvus().MilvusClient(location, **options)
        shared = Client(client, location, errors)
        return cls(shared, name, index, dict(index_params or {}), dict(search_params or {}))

    def create(self, widths: Mapping[int, int], manifest: bytes) -> None:
        """As of ``Engine``."""
        if self.client.has_collection(self.name):
            raise MixERValueError(
                f"Collection {self.name!r} is there already; open it with EngineGallery.open, or "
                "choose another name."
            )
        if self.client.has_collection(self._beside):  # of a creation that was interrupted
            self.client.drop_collection(self._beside)
        kind, chunks = _milvus().DataType, to_chunks(manifest)
        texts = {"text": {"datatype": kind.VARCHAR, "max_length": _LONGEST}}
        self._make(self._beside, 2, "FLAT", {}, {**texts, "parts": {"datatype": kind.INT64}})
        for part, text in enumerate(chunks):
            row = {"key": part, "vector": [0.0, 0.0], "text": text, "parts": len(chunks)}
            self.client.upsert(self._beside, [row])
        fields = {name: {"datatype": kind.INT64} for name in ("person", "camera", "modality")}
        fields |= {"time": {"datatype": kind.DOUBLE}, "timed": {"datatype": kind.BOOL}}
        fields |= {"path": texts["text"]}
        fields |= {name: {"datatype": kind.JSON} for name in ("payload", "kinds")}
        self._make(self.name, max(widths.values()), self.index, self.index_params, fields)

    def manifest(self) -> bytes | None:
        """As of ``Engine``."""
        if not all(map(self.client.has_collection, (self.name, self._beside))):
            return None
        for name in (self.name, self._beside):
            self.client.load_collection(name)
        rows: list[dict[str, Any]] = self._part(0)
        for part in range(1, rows[0]["parts"] if rows else 0):
            rows += self._part(part)
        return join_chunks(
            [row["text"] for row in rows], rows[0]["parts"] if rows else 0, self.name
        )

    def upsert(self, vectors: NDArray[np.float32], labels: Sequence[Labels]) -> None:
        """As of ``Engine``."""
        width = self._width()
        padded = np.pad(vectors, ((0, 0), (0, width - vectors.shape[1])))
        size = max(1, _NUMBERS // width)
        for start in range(0, len(labels), size):
            rows = [
                {"key": each.key, "vector": vector, **_to_fields(write_labels(each))}
                for vector, each in zip(
                    padded[start : start + size], labels[start : start + size], strict=True
                )
            ]
            self.client.upsert(self.name, rows)

    def delete(self, keys: Sequence[int]) -> None:
        """As of ``Engine``."""
        if keys:
            self.client.delete(self.name, ids=list(keys))

    def search(
        self,
        vectors: NDArray[np.float32],
        modality: int,
        limit: int,
        where: Sequence[Expression | None],
        exact: bool,
    ) -> list[list[Match]]:
        """As of ``Engine``; exact with ``FLAT``, and with ``IVF…``, whose lists are all read."""
        width = self._width()
        padded = np.pad(vectors, ((0, 0), (0, width - vectors.shape[1])))
        only = f"modality == {int(modality)}"
        asked: dict[str, list[int]] = {}  # a request has one filter
        for row, own in enumerate(where):
            text = only if own is None else f"{only} and {to_milvus(own)}"
            asked.setdefault(text, []).append(row)
        params = dict(self.search_params)
        if exact and "nlist" in self.index_params:
            params = {"nprobe": self.index_params["nlist"]}
        found: list[list[Match]] = [[] for _ in where]
        for text, rows in asked.items():
            for start in range(0, len(rows), _QUERIES):
                some = rows[start : start + _QUERIES]
                lists = self.client.search(
                    self.name,
                    data=list(padded[some]),
                    anns_field="vector",
                    limit=limit,
                    filter=text,
                    output_fields=_OUTPUT,
                    search_params={"metric_type": "IP", "params": params},
                )
                for row, hits in zip(some, lists, strict=True):
                    found[row] = [Match(float(h["distance"]), _labels(h["entity"])) for h in hits]
        return found

    def labels(self, where: Expression | None, limit: int | None) -> list[Labels]:
        """As of ``Engine``."""
        found: list[Labels] = []
        own = "" if where is None else f" and {to_milvus(where)}"
        while limit is None or len(found) < limit:
            after = found[-1].key if found else -1
            size = _PAGE if limit is None else min(_PAGE, limit - len(found))
            rows = self.client.query(
                self.name, filter=f"key > {after}{own}", output_fields=_OUTPUT, limit=size
            )
            found += sorted(map(_labels, rows), key=lambda labels: labels.key)
            if len(rows) < size:
                break
        return found

    def vectors(self, keys: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """As of ``Engine``."""
        rows = self.client.get(self.name, ids=list(keys), output_fields=["key", "vector"])
        return {int(row["key"]): np.asarray(row["vector"], np.float32) for row in rows}

    def close(self) -> None:
        """As of ``Engine``."""
        self.client.close()

    def count(self, where: Expression | None) -> int:
        """As of ``Engine``."""
        text = "" if where is None else to_milvus(where)
        found = self.client.query(self.name, filter=text, output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    @property
    def _beside(self) -> str:
        return f"{self.name}_manifest"

    def _width(self) -> int:
        fields = self.client.describe_collection(self.name)["fields"]
        return int(next(each["params"]["dim"] for each in fields if each["name"] == "vector"))

    def _part(self, part: int) -> list[dict[str, Any]]:
        wanted = f"key == {part}"
        return list(self.client.query(self._beside, filter=wanted, output_fields=["text", "parts"]))

    def _make(
        self,
        name: str,
        width: int,
        index: str,
        params: Mapping[str, Any],
        fields: Mapping[str, Mapping[str, Any]],
    ) -> None:
        kind = _milvus().DataType
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", kind.INT64, is_primary=True)
        schema.add_field("vector", kind.FLOAT_VECTOR, dim=width)
        for each, options in fields.items():
            schema.add_field(each, **options)
        made = self.client.prepare_index_params()
        made.add_index("vector", index_type=index, metric_type="IP", params=dict(params))
        self.client.create_collection(
            name, schema=schema, index_params=made, consistency_level="Strong"
        )


def _to_fields(labels: dict[str, Any]) -> dict[str, Any]:
    """No field may be missing: an image without a time or a path says so in another way."""
    given = {"person": labels.pop("id"), "timed": "time" in labels}
    given["kinds"] = kinds(labels["payload"])
    return {"time": 0.0, "path": "", **labels, **given}


def _labels(entity: Mapping[str, Any]) -> Labels:
    row = {name: entity[name] for name in _OUTPUT}
    row["id"] = row.pop("person")
    if not row.pop("timed"):
        del row["time"]
    if not row["path"]:
        del row["path"]
    return read_labels(int(row.pop("key")), row)


def _milvus() -> Any:
    try:
        return importlib.import_module("pymilvus")
    except ImportError as error:
        raise MissingExtraError("pymilvus", "milvus", "A gallery in Milvus") from error
