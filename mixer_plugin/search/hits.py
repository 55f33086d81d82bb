"""What a search returns, and its forms: tables, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
import operator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, check_least
from mixer_plugin.evaluation.tables import markdown_table
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.search.images import Images

_WORDS = 4  # the column of a terminal's table from which on cells are words, not numbers
_PADDED = 1024  # longer lists are no longer than the gallery: no memory for padding alone


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
        """One dictionary per hit, without the padding, query by query and best first.

        Keys: ``query`` (its row), ``query_id``, ``query_modality``, ``query_path`` (if the queries
        have paths), ``rank`` from 1 on, ``key``, ``score``, ``id``, ``camera``, ``modality`` and
        ``path`` (if the gallery has paths).

        Args:
            query: The queries that were searched for.
        """
        result = []
        fields = (self.keys, self.scores, self.ids, self.cams, self.modality)
        for i, lists in enumerate(zip(*(field.tolist() for field in fields), strict=True)):
            asked = query_fields(query, i)
            for j, (key, score, identity, camera, side) in enumerate(zip(*lists, strict=True)):
                if key < 0:
                    break
                row = {"rank": j + 1, "key": key, "score": round(score, 6), "id": identity}
                row |= {"camera": camera, "modality": Modality(side).name.lower()}
                if self.paths is not None:
                    row["path"] = self.paths[i][j]
                result.append(asked | row)
        return result


def query_fields(query: FeatureSet, i: int) -> dict[str, Any]:
    """What a row of hits tells of its query."""
    asked: dict[str, Any] = {"query": i, "query_id": int(query.ids[i])}
    asked["query_modality"] = Modality(int(query.modality[i])).name.lower()
    return asked if query.paths is None else asked | {"query_path": query.paths[i]}


def length_of_lists(k: int, images: int) -> int:
    """The length of the lists of a search: k, but above 1,024 at most the number of images.

    Raises:
        MixERTypeError: k is no whole number.
        MixERValueError: k is below 1.
    """
    try:
        k = operator.index(k)
    except TypeError as error:
        raise MixERTypeError(f"k must be a whole number, got {k!r}.") from error
    check_least("k", k)
    return min(k, max(images, _PADDED))


def make_hits(scores: NDArray[np.float32], keys: NDArray[np.int64], images: Images) -> Hits:
    """Looks the found images up: scores float32 [Q, k], keys int64 [Q, k]."""
    found, names = keys >= 0, images.paths

    def look_up(values: NDArray[np.int64]) -> Tensor:
        result = np.full(keys.shape, -1)
        result[found] = values[keys[found]]
        return torch.from_numpy(result)

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
    """Rows with the same fields as text: ``csv``, ``json``, ``jsonl`` or ``md``."""
    if kind == "json":
        return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    names = list(rows[0]) if rows else []
    body = [{name: _cell(value) for name, value in row.items()} for row in rows]
    if kind == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(body)
        return text.getvalue()
    lines = [[str(value) for value in row.values()] for row in body]
    return markdown_table(names, lines, labels=len(names)) if rows else ""


def terminal_table(rows: list[dict[str, Any]], width: int) -> str:
    """Rows of hits as lines of at most ``width`` characters, at least 60: a table per query.

    Paths are cut to file names; an image without a path shows its key.
    """
    named, timed = (any(row.get(name) is not None for row in rows) for name in ("path", "time"))
    head = ["rank", "score", "id", "camera", "modality", *["time"] * timed]
    head.append("file" if named else "key")
    body = []
    for row in rows:
        path, seconds = row.get("path"), row.get("time")
        cells = [row["rank"], f"{row['score']:.4f}", row["id"], row["camera"], row["modality"]]
        cells += [_date(seconds)] * timed
        cells.append(row["key"] if path is None else path.replace("\\", "/").rpartition("/")[2])
        body.append([str(cell) for cell in cells])
    sizes = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    text, query = [], None
    for row, cells in zip(rows, body, strict=True):
        if row["query"] != query:
            query = row["query"]
            title = f"query {query}" + (f": {row['query_path']}" if "query_path" in row else "")
            about = f" (id {row['query_id']}, {row['query_modality']})"
            text += ["", _cut(title, width - len(about)) + about, _line(head, sizes, width)]
        text.append(_line(cells, sizes, width))
    return "\n".join([*text[1:], ""])


def _line(cells: list[str], sizes: list[int], width: int) -> str:
    *known, last = cells
    padded = [
        cell.ljust(size) if i >= _WORDS else cell.rjust(size)
        for i, (cell, size) in enumerate(zip(known, sizes, strict=False))
    ]
    start = "  ".join([*padded, ""])
    return (start + _cut(last, width - len(start))).rstrip()


def _cut(text: str, width: int) -> str:
    """The end of a text that is too long."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def _date(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):  # beyond the years that dates have
        return f"{seconds:.0f}"


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
