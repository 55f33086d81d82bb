"""Which images must not come back for a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.evaluation.settings import SettingMask, find_groups, view
from mixer_plugin.features import FeatureSet

Excluding = Tensor | NDArray[Any] | Sequence[Any]


@dataclass(frozen=True)
class Images:
    """What is known of every image ever added; row i is key i.

    Attributes:
        ids: int64 [T].
        cams: int64 [T].
        modality: int64 [T].
        alive: bool [T], False once removed.
        paths: T strings, or None.
    """

    ids: NDArray[np.int64]
    cams: NDArray[np.int64]
    modality: NDArray[np.int64]
    alive: NDArray[np.bool_]
    paths: tuple[str, ...] | None


@dataclass(frozen=True)
class Exclusions:
    """Removed images, explicit ones and those that a setting leaves out.

    Attributes:
        images: The images.
        mask: bool [Q, T] of the caller, or None.
        pairs: int64 [P], query row times T plus key, of the caller, or None.
        rule: The setting for this gallery and these queries; None: nothing more.
    """

    images: Images
    mask: NDArray[np.bool_] | None
    pairs: NDArray[np.int64] | None
    rule: SettingRule | None

    def __call__(self, rows: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether keys, int64 [R, M], are excluded for the queries of these rows, int64 [R]."""
        result = ~self.images.alive[keys]
        if self.mask is not None:
            result |= self.mask[rows[:, None], keys]
        if self.pairs is not None:
            result |= np.isin(rows[:, None] * len(self.images.ids) + keys, self.pairs)
        if self.rule is not None:
            result |= ~self.rule.allowed(self.images, rows, keys)
        return result


@dataclass(frozen=True)
class SettingRule:
    """A setting of the evaluation, over the cameras of gallery and queries.

    Attributes:
        table: The setting.
        modality: int64 [K], the groups' modalities.
        items: int64 [T], the group of each image.
        queries: int64 [Q], the group of each query.
        ids: int64 [Q], the queries' identities.
    """

    table: SettingMask
    modality: NDArray[np.int64]
    items: NDArray[np.int64]
    queries: NDArray[np.int64]
    ids: NDArray[np.int64]

    def allowed(
        self, images: Images, rows: NDArray[np.int64], keys: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Bool [R, M], arguments as of ``Exclusions``."""
        pair = self.queries[rows][:, None], self.items[keys]
        same = np.equal(self.ids[rows][:, None], images.ids[keys])
        return np.where(same, self.table.positive[pair], self.table.listed[pair])

    def rows(self, modality: int) -> NDArray[np.int64]:
        """The queries that may match images of a modality at all, int64 [R]."""
        matched = self.table.positive | self.table.listed
        some: NDArray[np.bool_] = np.any(matched[:, self.modality == modality], axis=1)
        return np.flatnonzero(some[self.queries])


def setting_rule(name: str, images: Images, query: FeatureSet) -> SettingRule | None:
    """The rule of a setting, None for ``mix``; no camera counts as co-located."""
    if name == "mix":
        return None
    groups = find_groups(
        np.concatenate([images.modality, query.modality.cpu().numpy()]),
        np.concatenate([images.cams, query.cams.cpu().numpy()]),
    )
    items, queries = np.split(groups.of_row, [len(images.ids)])
    return SettingRule(view(name, groups), groups.modality, items, queries, query.ids.cpu().numpy())


def read_exclude(
    exclude: Excluding | None, queries: int, total: int
) -> tuple[NDArray[np.bool_] | None, NDArray[np.int64] | None]:
    """What the caller excludes, as a mask or as pairs.

    Args:
        exclude: bool [Q, T]; or for each query its keys, -1 meaning none.
        queries: Q.
        total: T.

    Returns:
        The mask bool [Q, T] or None, and the pairs as in ``Exclusions`` or None.

    Raises:
        MixERTypeError: Neither whole numbers nor bool.
        MixERValueError: Not one entry per query, a mask of another shape or an unknown key.
    """
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
    lists = [_keys(row) for row in exclude]
    rows = np.repeat(np.arange(queries), [len(row) for row in lists])
    keys = np.concatenate([np.empty(0, dtype=np.int64), *lists])
    wrong = keys[(keys < -1) | (keys >= total)]
    if len(wrong):
        raise MixERValueError(
            f"Key {wrong[0]} to exclude is unknown; the index has given out keys 0 to {total - 1}."
        )
    return None, np.unique((rows * total + keys)[keys >= 0])


def _keys(given: Any) -> NDArray[np.int64]:
    keys = np.asarray(given.cpu() if isinstance(given, Tensor) else given).reshape(-1)
    if keys.size and keys.dtype.kind not in "iu":
        raise MixERTypeError(
            f"Keys to exclude must be whole numbers, got {keys.dtype}; a mask is one bool array."
        )
    return keys.astype(np.int64)
