"""What a search of a collection returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.search.engines.protocol import Labels
from mixer_plugin.search.faiss_index import Lists
from mixer_plugin.search.hits import Hits


@dataclass(frozen=True, eq=False, repr=False)
class EngineHits(Hits):
    """``Hits`` with what an engine keeps beside them.

    Attributes:
        times: float64 [Q, k], seconds since 1970, NaN where unknown.
        payloads: Q tuples of k dictionaries, None where an image has none.
        change: None: no engine counts what was changed.
    """

    times: Tensor
    payloads: tuple[tuple[dict[str, Any] | None, ...], ...]
    change: None = None

    def rows(self, query: FeatureSet) -> list[dict[str, Any]]:
        """As of ``Hits``, and each hit's time and payload."""
        rows = super().rows(query)
        for row in rows:
            place = row["query"], row["rank"] - 1
            seconds = float(self.times[place])
            row["time"] = None if np.isnan(seconds) else seconds
            row["payload"] = self.payloads[place[0]][place[1]]
        return rows


def make_hits(lists: Lists, known: Mapping[int, Labels]) -> EngineHits:
    """Looks found images up by their keys: scores float32 [Q, k] and keys int64 [Q, k], -1 none."""
    scores, keys = lists
    found = [[known.get(key) for key in line] for line in keys.tolist()]

    def numbers(name: str, missing: float, kind: Any) -> Tensor:
        values = [[missing if i is None else getattr(i, name) for i in line] for line in found]
        values = [[missing if v is None else v for v in line] for line in values]
        return torch.from_numpy(np.array(values, kind).reshape(keys.shape))

    return EngineHits(
        scores=torch.from_numpy(scores),
        keys=torch.from_numpy(keys),
        ids=numbers("id", -1, np.int64),
        cams=numbers("camera", -1, np.int64),
        modality=numbers("modality", -1, np.int64),
        paths=tuple(tuple(None if i is None else i.path for i in line) for line in found),
        times=numbers("time", np.nan, np.float64),
        payloads=tuple(
            tuple(None if i is None else dict(i.payload) or None for i in line) for line in found
        ),
    )


def image_fields(labels: Labels) -> dict[str, Any]:
    """What ``EngineGallery.get`` tells of an image."""
    known = {name: getattr(labels, name) for name in ("key", "id", "camera", "time", "path")}
    side = Modality(labels.modality).name.lower()
    return known | {"modality": side, "payload": dict(labels.payload) or None}
