"""Recall of an approximate search against an exact one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.tables import markdown_table
from mixer_plugin.features import FeatureSet
from mixer_plugin.search.faiss_index import Lists
from mixer_plugin.search.hits import Hits
from mixer_plugin.search.index import MixedModalIndex

_REPETITIONS = 3


class Searched(Protocol):
    """What a recall can be taken of: an index, or a gallery in an engine; see ``MixedModalIndex``.

    Attributes:
        factory: What the report calls it.
        rule: Name of the rule.
        calibration: None or ``center``.
    """

    @property
    def factory(self) -> str: ...  # noqa: D102
    @property
    def rule(self) -> str: ...  # noqa: D102
    @property
    def calibration(self) -> str | None: ...  # noqa: D102
    def __len__(self) -> int: ...
    def search(self, query: FeatureSet, k: int) -> Hits: ...  # noqa: D102
    def search_each(self, query: FeatureSet, k: int) -> dict[int, Lists]: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class RecallReport:
    """Recall of an index, by kind of pair, and time.

    Attributes:
        factory: The index that was tested.
        k: Lengths of the lists, ascending.
        within: For each k, the share of the k best images of the query's own modality that the
            index finds among its k best of that modality; mean over the queries, NaN without any.
        across: The same for the other modality.
        merged: The same for the lists that ``search`` returns.
        milliseconds: Time per query for lists of the largest k, all queries in one call; the
            fastest of three calls.
        exact_milliseconds: The same for the exact index.
    """

    factory: str
    k: tuple[int, ...]
    within: tuple[float, ...]
    across: tuple[float, ...]
    merged: tuple[float, ...]
    milliseconds: float
    exact_milliseconds: float

    def to_markdown(self) -> str:
        """A table, a row per kind of pair, and a line on time."""
        names = ("within", "across", "merged")
        body = [[name, *(f"{value:.4f}" for value in getattr(self, name))] for name in names]
        head = ["pairs", *(f"recall@{k}" for k in self.k)]
        return (
            f"{markdown_table(head, body, labels=len(head))}\n{self.factory}: "
            f"{self.milliseconds:.3f} ms per query; exact: {self.exact_milliseconds:.3f} ms."
        )


def recall_report(
    index: Searched,
    query: FeatureSet,
    exact: MixedModalIndex,
    k: Sequence[int] = (1, 10, 100),
) -> RecallReport:
    """Compares an index with an exact one of the same gallery.

    Args:
        index: The index to test, or a gallery in an engine, whose keys must be those of ``exact``.
        query: Queries of one modality or both.
        exact: A ``Flat`` index to which the same sets were added in the same order.
        k: Lengths of the lists.

    Returns:
        Recall by kind of pair, and times.

    Raises:
        MixERValueError: ``exact`` is not ``Flat``, the two differ in rule, calibration, images or
            keys, there are no queries, or k is empty or below 1.
    """
    lengths = tuple(sorted(set(k)))
    if not lengths or lengths[0] < 1:
        raise MixERValueError(f"k must be numbers from 1 on, got {list(k)}.")
    if not len(query):
        raise MixERValueError("A recall needs at least one query.")
    if exact.factory != "Flat":
        raise MixERValueError(f"The exact index must be 'Flat', got {exact.factory!r}.")
    for name in ("rule", "calibration"):
        mine, theirs = getattr(index, name), getattr(exact, name)
        if mine != theirs:
            raise MixERValueError(
                f"The index has {name} {mine!r}, the exact one {theirs!r}; build both alike."
            )
    same = len(index) == len(exact)
    if isinstance(index, MixedModalIndex):
        same = index.keys.equal(exact.keys)
    if not same:
        raise MixERValueError(
            f"The index holds {len(index)} images, the exact one {len(exact)}, or under other "
            "keys; add and remove the same in both."
        )
    most = lengths[-1]
    mine, theirs = index.search_each(query, most), exact.search_each(query, most)
    own = query.modality.cpu().numpy()[:, None]
    lists = {
        "within": [np.where(own == 0, x[0][1], x[1][1]) for x in (mine, theirs)],
        "across": [np.where(own == 0, x[1][1], x[0][1]) for x in (mine, theirs)],
        "merged": [x.search(query, most).keys.numpy() for x in (index, exact)],
    }
    unknown = np.setdiff1d(lists["merged"][0], [-1, *exact.keys.tolist()])
    if len(unknown):
        raise MixERValueError(
            f"{index.factory} found key {unknown[0]}, which the exact index does not hold; give "
            "the images the same keys in both."
        )
    recalls = {
        name: tuple(_recall(found[:, :each], right[:, :each]) for each in lengths)
        for name, (found, right) in lists.items()
    }
    return RecallReport(
        factory=index.factory,
        k=lengths,
        **recalls,
        milliseconds=_milliseconds(index, query, most),
        exact_milliseconds=_milliseconds(exact, query, most),
    )


def _recall(found: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Mean over the queries with any right key of the share of right keys that are found."""
    shares = [
        len(np.intersect1d(mine, keys)) / len(keys)
        for mine, keys in ((f, r[r >= 0]) for f, r in zip(found, right, strict=True))
        if len(keys)
    ]
    return float(np.mean(shares)) if shares else float("nan")


def _milliseconds(index: Searched, query: FeatureSet, k: int) -> float:
    seconds = []
    for _ in range(_REPETITIONS):
        start = time.perf_counter()
        index.search(query, k)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds) / len(query)
