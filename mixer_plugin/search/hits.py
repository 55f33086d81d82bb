"""What a search returns, and its forms: table, CSV, JSON lines."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.search.images import Images


@dataclass(frozen=True, eq=False, repr=False)
class Hits:
    """The k best images of Q queries, best first, on the CPU; short lists are padded.

    Attributes:
        scores: float32 [Q, k]; padding is -inf.
        keys: int64 [Q, k]; padding is -1, here and below.
        ids: int64 [Q, k], identities.
        cams: int64 [Q, k], cameras.
        modality: int64 [Q, k], 0 visible, 1 infrared.
        paths: Q tuples of k paths, None for padding; None if the gallery has no paths.
    """

    scores: Tensor
    keys: Tensor
    ids: Tensor
    cams: Tensor
    modality: Tensor
    paths: tuple[tuple[str | None, ...], ...] | None

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Hits({len(self)} queries, {self.keys.shape[1]} images each)"

    def rows(self, query: FeatureSet) -> list[dict[str, Any]]:
        """One dictionary per hit, without the padding, with what is known of its query."""
        result = []
        for i, keys in enumerate(self.keys.tolist()):
            asked = {
                "query": i,
                "query_id": int(query.ids[i]),
                "query_modality": Modality(int(query.modality[i])).name.lower(),
            }
            if query.paths is not None:
                asked["query_path"] = query.paths[i]
            for j, key in enumerate(keys):
                if key < 0:
                    break
                row = {
                    **asked,
                    "rank": j + 1,
                    "key": key,
                    "score": round(float(self.scores[i, j]), 6),
                    "id": int(self.ids[i, j]),
                    "camera": int(self.cams[i, j]),
                    "modality": Modality(int(self.modality[i, j])).name.lower(),
                }
                if self.paths is not None:
                    row["path"] = self.paths[i][j]
                result.append(row)
        return result


def make_hits(scores: NDArray[np.float32], keys: NDArray[np.int64], images: Images) -> Hits:
    """Looks the found images up: scores float32 [Q, k], keys int64 [Q, k]."""
    none = keys < 0

    def look_up(values: NDArray[np.int64]) -> Tensor:
        if not len(values):
            return torch.full(keys.shape, -1)
        return torch.from_numpy(np.where(none, -1, values[keys]))

    names = images.paths
    return Hits(
        scores=torch.from_numpy(scores),
        keys=torch.from_numpy(keys),
        ids=look_up(images.ids),
        cams=look_up(images.cams),
        modality=look_up(images.modality),
        paths=None
        if names is None
        else tuple(tuple(None if key < 0 else names[key] for key in row) for row in keys.tolist()),
    )


def format_rows(rows: list[dict[str, Any]], kind: str) -> str:
    """Rows with the same fields as text: ``csv``, ``jsonl`` or ``md``."""
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    names = list(rows[0]) if rows else []
    if kind == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
    lines = [names, ["---"] * len(names), *([str(value) for value in row.values()] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines if line)
