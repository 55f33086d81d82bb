"""Images that a search must not return for a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.evaluation.settings import SettingMask, view
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.validation import label_vector
from mixer_plugin.search.images import Images, merge_groups

Excluding = Tensor | NDArray[Any] | Sequence[Any]


@dataclass(frozen=True)
class Filter:
    """The images that Q queries must not find: removed, excluded, or left out by a setting.

    Attributes:
        images: The images.
        ids: int64 [Q], the queries' identities.
        mask: bool [Q, T], excluded by the caller, or None.
        pairs: int64 [P], query row times T plus key, excluded by the caller, or None.
        table: The setting, a row per group of queries and a column per group of images; None: mix.
        groups: int64 [Q], the queries' rows of the table.
    """

    images: Images
    ids: NDArray[np.int64]
    mask: NDArray[np.bool_] | None
    pairs: NDArray[np.int64] | None
    table: SettingMask | None
    groups: NDArray[np.int64]

    def excluded(self, rows: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether keys, int64 [R, M], are excluded for the queries of these rows, int64 [R]."""
        result: NDArray[np.bool_] = ~self.images.alive[keys]
        row = rows[:, None]
        if self.mask is not None:
            result |= self.mask[row, keys]
        if self.pairs is not None:
            result |= np.isin(row * len(self.images.ids) + keys, self.pairs)
        if self.table is not None:
            pair = self.groups[row], self.images.groups.of_row[keys]
            same = np.equal(self.ids[row], self.images.ids[keys])
            same &= self.ids[row] >= 0  # below 0, a person is unknown
            result |= ~np.where(same, self.table.positive[pair], self.table.listed[pair])
        return result

    def rows(self, modality: int) -> NDArray[np.int64]:
        """The queries that may find images of a modality at all, int64 [R]."""
        if self.table is None:
            return np.arange(len(self.ids))
        matched = self.table.positive | self.table.listed
        columns = self.images.groups.modality == modality
        some: NDArray[np.bool_] = np.any(matched[:, columns], axis=1)
        return np.flatnonzero(some[self.groups])


def make_filter(
    images: Images, query: FeatureSet, exclude: Excluding | None, setting: str
) -> Filter:
    """The filter of a search; arguments and errors as of ``MixedModalIndex.search``."""
    mask, pairs = _read_exclude(exclude, len(query), len(images.ids))
    ids, cams, modality = (v.cpu().numpy() for v in (query.ids, query.cams, query.modality))
    if setting == "mix":
        return Filter(images, ids, mask, pairs, None, np.zeros_like(ids))
    groups, columns, rows = merge_groups(images.groups, modality, cams)
    table = view(setting, groups)
    cut = {name: getattr(table, name)[:, columns] for name in ("listed", "positive", "gallery")}
    return Filter(images, ids, mask, pairs, replace(table, **cut), rows)


def _read_exclude(
    exclude: Excluding | None, queries: int, total: int
) -> tuple[NDArray[np.bool_] | None, NDArray[np.int64] | None]:
    """The caller's exclusions as the mask or the pairs of a ``Filter``."""
    if exclude is None:
        return None, None
    if isinstance(exclude, Tensor):
        exclude = exclude.detach().cpu().numpy()
    if not isinstance(exclude, (Sequence, np.ndarray)) or isinstance(exclude, (str, bytes)):
        raise MixERTypeError(
            f"exclude must be the keys of each query or a bool mask, got {exclude!r}."
        )
    if len(exclude) != queries:
        raise MixERValueError(
            f"exclude must have one entry per query, {queries}; got {len(exclude)}."
        )
    if isinstance(exclude, np.ndarray) and exclude.dtype == np.bool_:
        if exclude.shape != (queries, total):
            raise MixERValueError(
                "A mask must have one column per key ever given out, shape "
                f"({queries}, {total}), got {exclude.shape}."
            )
        return exclude, None
    lists = [whole_numbers(row, "Keys to exclude", "; a mask is one bool array") for row in exclude]
    rows = np.repeat(np.arange(queries), [len(row) for row in lists])
    keys = np.concatenate([np.empty(0, dtype=np.int64), *lists])
    wrong = keys[(keys < -1) | (keys >= total)]
    if len(wrong):
        raise MixERValueError(
            f"Key {wrong[0]} to exclude is unknown; the index has given out keys 0 to {total - 1}."
        )
    return None, np.unique((rows * total + keys)[keys >= 0])


def whole_numbers(given: Any, what: str, hint: str = "") -> NDArray[np.int64]:
    """A number, a sequence, an array or a tensor as int64 [M]; ``MixERTypeError`` otherwise."""
    numbers = np.asarray(given.cpu() if isinstance(given, Tensor) else given).reshape(-1)
    if numbers.size and numbers.dtype.kind not in "iu":
        raise MixERTypeError(f"{what} must be whole numbers, got {numbers.dtype}{hint}.")
    return label_vector(what, numbers).numpy()  # which refuses numbers beyond int64
