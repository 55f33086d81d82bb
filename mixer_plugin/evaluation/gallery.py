"""The gallery of all trials in the column order that ranking needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.evaluation.settings import Groups


@dataclass(frozen=True)
class Draw:
    """The gallery of one trial, as columns of the common score block.

    "Item" is a position in this draw; items are ordered by (group, identity, row).

    Attributes:
        columns: int64 [G], the column of each item.
        whole: Whether these are all the columns there are.
        offsets: K + 1 positions: group k's items are ``offsets[k]`` to ``offsets[k + 1]``.
        group: int64 [G].
        identity: int64 [G], index of the identity.
        rows: int64 [G], row in the feature set.
        positives: int64 [identities, P], the items of each identity by row, then -1.
        starts: Per group int64 [segments], where each identity begins, counted from the offset.
        segments: Per group int64 [segments], the identity of each.
    """

    columns: Tensor
    whole: bool
    offsets: tuple[int, ...]
    group: Tensor
    identity: Tensor
    rows: Tensor
    positives: Tensor
    starts: tuple[NDArray[np.int64], ...]
    segments: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True)
class Gallery:
    """The union of the draws.

    Attributes:
        rows: int64 [columns], row in the feature set of each column, visible ones first.
        split: Number of visible columns.
        draws: One per trial.
    """

    rows: Tensor
    split: int
    draws: tuple[Draw, ...]


def arrange(
    draws: Sequence[NDArray[np.int64]],
    groups: Groups,
    identity: NDArray[np.int64],
    device: torch.device,
) -> Gallery:
    """Orders the union of the draws by (group, identity, row) and finds each draw in it.

    Args:
        draws: Per trial int64 [gallery], rows of the feature set, no row twice.
        groups: Groups of the feature set.
        identity: int64 [N], index of each row's identity, from 0.
        device: Where the tensors go.

    Returns:
        The union and its draws.
    """
    union = np.unique(np.concatenate(draws))
    rows = union[np.lexsort((union, identity[union], groups.of_row[union]))]
    visible = int((groups.modality[groups.of_row[rows]] == 0).sum())
    count = int(identity.max()) + 1
    found = []
    for draw in draws:
        columns = np.flatnonzero(np.isin(rows, draw))
        found.append(_arrange_draw(columns, rows, groups, identity, count, device))
    return Gallery(torch.from_numpy(rows).to(device), visible, tuple(found))


def _arrange_draw(
    columns: NDArray[np.int64],
    union: NDArray[np.int64],
    groups: Groups,
    identity: NDArray[np.int64],
    identities: int,
    device: torch.device,
) -> Draw:
    rows = union[columns]
    group, ident = groups.of_row[rows], identity[rows]
    offsets = np.searchsorted(group, np.arange(len(groups.camera) + 1))
    starts, segments = [], []
    for begin, end in pairwise(offsets.tolist()):
        names, first = np.unique(ident[begin:end], return_index=True)
        starts.append(first.astype(np.int64))
        segments.append(names.astype(np.int64))
    return Draw(
        columns=torch.from_numpy(columns).to(device),
        whole=len(columns) == len(union),
        offsets=tuple(offsets.tolist()),
        group=torch.from_numpy(group).to(device),
        identity=torch.from_numpy(ident).to(device),
        rows=torch.from_numpy(rows).to(device),
        positives=torch.from_numpy(_items_by_identity(ident, rows, identities)).to(device),
        starts=tuple(starts),
        segments=tuple(segments),
    )


def _items_by_identity(
    identity: NDArray[np.int64], rows: NDArray[np.int64], identities: int
) -> NDArray[np.int64]:
    """Int64 [identities, P]: positions of each identity in order of their rows, then -1."""
    counts = np.bincount(identity, minlength=identities)
    table = np.full((identities, max(int(counts.max(initial=0)), 1)), -1, dtype=np.int64)
    order = np.lexsort((rows, identity))
    starts = np.cumsum(counts) - counts
    place = np.arange(len(order)) - np.repeat(starts, counts)
    table[identity[order], place] = order
    return table
