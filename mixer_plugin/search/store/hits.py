"""What a search of a store returns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.search.hits import query_fields
from mixer_plugin.search.keys import Key
from mixer_plugin.search.store.rows import ImageRow


@dataclass(frozen=True, eq=False, repr=False)
class StoreHits:
    """The k best images of Q queries, best first; short lists are padded.

    Attributes:
        scores: float32 [Q, k]; padding is -inf.
        keys: Q tuples of k keys, None for padding, here and in ``paths`` and ``payloads``.
        ids: int64 [Q, k], persons; below 0: unknown; padding is -1, here and below.
        cams: int64 [Q, k], cameras.
        modality: int64 [Q, k], 0 visible, 1 infrared.
        times: float64 [Q, k], seconds since 1970, NaN where unknown.
        paths: Q tuples of k paths, None where an image has none.
        payloads: Q tuples of k dictionaries, None where an image has none.
        change: Number of calls that had added or removed images when the search began: the answer
            is that of the store after so many.
    """

    scores: Tensor
    keys: tuple[tuple[Key | None, ...], ...]
    ids: Tensor
    cams: Tensor
    modality: Tensor
    times: Tensor
    paths: tuple[tuple[str | None, ...], ...]
    payloads: tuple[tuple[dict[str, Any] | None, ...], ...]
    change: int

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"StoreHits({len(self)} queries, {self.scores.shape[1]} images each)"

    def rows(self, query: FeatureSet) -> list[dict[str, Any]]:
        """One dictionary per hit, without the padding, query by query and best first.

        Keys: those of ``Hits.rows``, ``time`` (seconds since 1970 or None), ``path`` (or None) and
        ``payload`` (a dictionary or None).

        Args:
            query: The queries that were searched for.
        """
        result = []
        for i, keys in enumerate(self.keys):
            for j, key in enumerate(keys):
                if key is None:
                    break
                seconds = float(self.times[i, j])
                image = {
                    "key": key,
                    "score": round(float(self.scores[i, j]), 6),
                    "id": int(self.ids[i, j]),
                    "camera": int(self.cams[i, j]),
                    "modality": Modality(int(self.modality[i, j])).name.lower(),
                    "time": None if np.isnan(seconds) else seconds,
                    "path": self.paths[i][j],
                    "payload": self.payloads[i][j],
                }
                result.append(query_fields(query, i) | {"rank": j + 1} | image)
        return result


def image_fields(image: ImageRow) -> dict[str, Any]:
    """What ``get`` tells of an image."""
    return {
        "key": image.key,
        "id": image.id,
        "camera": image.camera,
        "modality": Modality(image.modality).name.lower(),
        "time": image.time,
        "path": image.path,
        "payload": None if image.payload is None else json.loads(image.payload),
    }


def make_store_hits(
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    images: dict[int, ImageRow],
    change: int,
) -> StoreHits:
    """Looks the found images up: scores float32 [Q, k], rows of the database [Q, k], -1 none."""
    found = [[images.get(row) for row in line] for line in rows.tolist()]

    def numbers(name: str, missing: float, kind: Any) -> Tensor:
        lists = [[missing if i is None else getattr(i, name) for i in line] for line in found]
        return torch.from_numpy(np.array(lists, kind).reshape(rows.shape))

    def told(name: str) -> tuple[tuple[Any, ...], ...]:
        return tuple(tuple(None if i is None else getattr(i, name) for i in line) for line in found)

    return StoreHits(
        scores=torch.from_numpy(scores),
        keys=told("key"),
        ids=numbers("id", -1, np.int64),
        cams=numbers("camera", -1, np.int64),
        modality=numbers("modality", -1, np.int64),
        times=numbers("time", np.nan, np.float64),
        paths=told("path"),
        payloads=tuple(
            tuple(None if text is None else json.loads(text) for text in line)
            for line in told("payload")
        ),
        change=change,
    )
