"""The gallery of all trials in the column order that ranking needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.distributed.processes import ALONE, Share
from mixer_plugin.evaluation.settings import Groups
from mixer_plugin.matching.similarity import Tile, tile


@dataclass(frozen=True)
class Draw:
    """The gallery of one trial, as columns of the common score block.

    "Item" is a position in this draw; items are ordered by (group, identity, row). Of these, a
    process holds the items ``first`` to ``first + H``: all of them, unless it has a part of the
    gallery.

    Attributes:
        first: The first item held.
        columns: int64 [H], the column of each item held.
        whole: Whether these are all the columns there are, in order.
        offsets: K + 1 positions, counted from ``first``: group k's items among those held.
        group: int64 [G], of every item.
        identity: int64 [G], index of the identity of every item.
        rows: int64 [G], row in the feature set of every item.
        positives: int64 [identities, P], the items of each identity by row, then -1.
        starts: Per group int64 [segments], where each identity held begins, from the offset.
        segments: Per group int64 [segments], the identity of each.
    """

    first: int
    columns: Tensor
    whole: bool
    offsets: tuple[int, ...]
    group: Tensor
    identity: Tensor
    rows: Tensor
    positives: Tensor
    starts: tuple[NDArray[np.int64], ...]
    segments: tuple[NDArray[np.int64], ...]

    def held(self, values: Tensor) -> Tensor:
        """Selects the entries of the items that this process holds."""
        return values[self.first : self.first + len(self.columns)]


@dataclass(frozen=True)
class Gallery:
    """The union of the draws, or the columns of it that this process holds.

    Attributes:
        rows: int64 [columns held], row in the feature set of each column, visible ones first.
        tiles: The tiles held, counted from the first column held.
        of: Number of tiles of the union.
        draws: One per trial.
    """

    rows: Tensor
    tiles: tuple[Tile, ...]
    of: int
    draws: tuple[Draw, ...]


def arrange(
    draws: Sequence[NDArray[np.int64]],
    groups: Groups,
    identity: NDArray[np.int64],
    device: torch.device,
    share: Share = ALONE,
) -> Gallery:
    """Orders the union of the draws by (group, identity, row) and finds each draw in it.

    Args:
        draws: Per trial int64 [gallery], rows of the feature set, no row twice.
        groups: Groups of the feature set.
        identity: int64 [N], index of each row's identity, from 0.
        device: Where the tensors go.
        share: Which of the tiles this process holds.

    Returns:
        The union and its draws.
    """
    union = np.unique(np.concatenate(draws))
    rows = union[np.lexsort((union, identity[union], groups.of_row[union]))]
    visible = int((groups.modality[groups.of_row[rows]] == 0).sum())
    every = tile(visible, len(rows), device)
    mine = share.stretch(every)
    begin, end = (mine[0].columns.start, mine[-1].columns.stop) if mine else (0, 0)
    tiles = tuple(
        replace(part, columns=slice(part.columns.start - begin, part.columns.stop - begin))
        for part in mine
    )
    count = int(identity.max()) + 1
    found = []
    for draw in draws:
        columns = np.flatnonzero(np.isin(rows, draw))
        found.append(_arrange_draw(columns, rows, (begin, end), groups, identity, count, device))
    return Gallery(torch.from_numpy(rows[begin:end]).to(device), tiles, len(every), tuple(found))


def _arrange_draw(
    columns: NDArray[np.int64],
    union: NDArray[np.int64],
    held: tuple[int, int],
    groups: Groups,
    identity: NDArray[np.int64],
    identities: int,
    device: torch.device,
) -> Draw:
    rows = union[columns]
    group, ident = groups.of_row[rows], identity[rows]
    first, last = np.searchsorted(columns, held).tolist()
    ends = np.searchsorted(group, np.arange(len(groups.camera) + 1))
    offsets = np.clip(ends, first, last) - first
    starts, segments = [], []
    for begin, end in pairwise((offsets + first).tolist()):
        names, start = np.unique(ident[begin:end], return_index=True)
        starts.append(start.astype(np.int64))
        segments.append(names.astype(np.int64))
    return Draw(
        first=first,
        columns=torch.from_numpy(columns[first:last] - held[0]).to(device),
        whole=last - first == held[1] - held[0],
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
