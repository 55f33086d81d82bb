"""Exact ranks of the positives of one block of queries in one draw of the gallery.

What a setting removes for a query depends on the camera, or on camera and identity. So the items of
other identities ("negatives") in a list are whole cameras, and it is enough to know, for each
positive and camera, how many negatives score higher. That takes a sort of the values (not of the
indices, which is several times slower) and a binary search of the positives. Counts, best scores
and ties add up over the parts of a gallery, so that several processes can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.distributed.processes import Share
from mixer_plugin.evaluation.ranking.gallery_layout import Draw
from mixer_plugin.evaluation.ranking.metrics import (
    average_precision,
    first_rank,
    inverse_negative_penalty,
)
from mixer_plugin.evaluation.ranking.scoring import Queries
from mixer_plugin.evaluation.settings import SettingMask
from mixer_plugin.features.validation import on_cpu
from mixer_plugin.matching.workspace import Workspace

_TIE_ELEMENTS = 2**22
# NumPy sorts rows of up to 512 floats in registers. On processors where its next step, the
# partition of longer ones, is slow (Zen 4: by a factor of six), that pays for the searches.
_RUN = 512


@dataclass(frozen=True)
class Tables:
    """The settings as the queries of one group see them; equal rows of ``listed`` are shared."""

    listed: Tensor  # float64 [U, K], which groups' negatives are in the list
    which: Tensor  # int64 [V], the row of `listed` of each setting
    positive: Tensor  # bool [V, K], which groups' positives are


def stack(views: Sequence[SettingMask], group: int, device: torch.device) -> Tables:
    """The tables of the queries of a group."""
    listed, which = np.unique(
        np.stack([view.listed[group] for view in views]), axis=0, return_inverse=True
    )
    positive = np.stack([view.positive[group] for view in views])
    return Tables(
        torch.from_numpy(listed).to(device, torch.float64),
        torch.from_numpy(which.reshape(-1)).to(device),
        torch.from_numpy(positive).to(device),
    )


def rank_block(
    block: Tensor,
    draw: Draw,
    queries: Queries,
    tables: Tables,
    workspace: Workspace,
    share: Share,
    *,
    dedup: bool,
) -> dict[str, Tensor]:
    """Ranks the positives of some queries.

    Args:
        block: float32 [B, columns held], scores.
        draw: The draw; items are its.
        queries: B queries, all of one group.
        tables: The settings, V of them, as that group sees them.
        workspace: Working memory.
        share: The processes that hold the other columns.
        dedup: Whether the CMC counts each identity once.

    Returns:
        Metrics [V, B], by field of ``QueryMetrics``.
    """
    found = _positives(block, draw, queries, share)
    slabs = _negatives(block, draw, found, workspace)
    best = share.max(_best_per_identity(slabs, draw)) if dedup else None
    _sort(slabs)
    above, tied = _count_above(slabs, found, share)

    def negatives(counts: Tensor) -> Tensor:  # [B, K, P] -> [V, B, P]
        return torch.einsum("uk,bkp->ubp", tables.listed, counts.double())[tables.which]

    positive = tables.positive[:, draw.group[found.item]]
    positive &= found.there & (draw.rows[found.item] != queries.rows[:, None])
    ahead = optimistic = negatives(above)
    if tied is not None:
        earlier = share.sum(_earlier_ties(block, draw, queries, found, tied))
        ahead = negatives(above + earlier)
    ap = average_precision(positive, ahead)
    count = positive.sum(dim=-1)
    if best is None:
        first = first_rank(positive, ahead)
    else:
        first = _first_identity(block, draw, queries, found, positive, best, tables, share)
    metrics = {
        "ap": ap,
        "ap_optimistic": ap,
        "ap_pessimistic": ap,
        "inp": inverse_negative_penalty(positive, ahead),
        "first": torch.where(count > 0, first, 0).long(),
        "positives": count,
    }
    if tied is not None:
        rows = tied.any(dim=2).any(dim=1)  # few: ties are rare in float32
        pessimistic = negatives(above + tied)
        for name, others in (("ap_optimistic", optimistic), ("ap_pessimistic", pessimistic)):
            metrics[name] = ap.clone()
            metrics[name][:, rows] = average_precision(positive[:, rows], others[:, rows])
    return metrics


@dataclass(frozen=True)
class _Positives:
    """All items of each query's identity, best first, ties by row; padded on the right."""

    item: Tensor  # int64 [B, P]
    score: Tensor  # float32 [B, P], -inf where padded
    there: Tensor  # bool [B, P], False where padded


def _positives(block: Tensor, draw: Draw, queries: Queries, share: Share) -> _Positives:
    item = draw.positives[queries.identity]
    width = int((item >= 0).sum(dim=1).max())
    item = item[:, : max(width, 1)]
    there = item >= 0
    if len(draw.columns):
        place, held = _place_held(item, draw)
        score = block.gather(1, draw.columns[place]).masked_fill_(~(there & held), -torch.inf)
    else:
        score = block.new_full(item.shape, -torch.inf)
    # Stable, and the table lists each identity's items by row.
    score, order = share.max(score).sort(dim=1, descending=True, stable=True)
    item = item.gather(1, order)
    return _Positives(item.clamp(min=0), score, item >= 0)


def _place_held(item: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Positions of items among those held (arbitrary for others), and whether they are held."""
    place = item - draw.first
    held = (place >= 0) & (place < len(draw.columns))
    return place.clamp_(0, max(len(draw.columns) - 1, 0)), held


@dataclass(frozen=True)
class _Slab:
    """Scores of one group's items, the queries' own identities at -inf."""

    runs: Tensor  # float32 [B, runs, length], padded with -inf at the end
    count: int  # items

    def row(self) -> Tensor:
        """Float32 [B, items], as long as the runs are not sorted."""
        return self.runs.view(len(self.runs), -1)[:, : self.count]


def _negatives(block: Tensor, draw: Draw, found: _Positives, workspace: Workspace) -> list[_Slab]:
    """The slab of each group."""
    rows = len(block)
    sizes = [end - begin for begin, end in pairwise(draw.offsets)]
    shapes = [_runs(size, on_cpu(block)) for size in sizes]
    starts = np.cumsum([0, *(runs * length for runs, length in shapes)]).tolist()
    # One slot more than there are scores: what padding points to.
    buffer = workspace.take("slabs", (rows * starts[-1] + 1,), block)
    slabs = []
    for start, begin, size, (runs, length) in zip(
        starts[:-1], draw.offsets[:-1], sizes, shapes, strict=True
    ):
        flat = buffer[rows * start : rows * (start + runs * length)].view(rows, runs * length)
        if draw.whole:
            flat[:, :size].copy_(block[:, begin : begin + size])
        else:
            columns = draw.columns[begin : begin + size]
            torch.index_select(block, 1, columns, out=flat[:, :size])
        flat[:, size:] = -torch.inf
        slabs.append(_Slab(flat.view(rows, runs, length), size))
    place, held = _place_held(found.item, draw)
    group = draw.group[found.item]
    start, offset = (
        torch.tensor(values, device=block.device)[group] for values in (starts, draw.offsets)
    )
    width = torch.tensor([runs * length for runs, length in shapes], device=block.device)[group]
    row = torch.arange(rows, device=block.device)[:, None]
    at = rows * start + row * width + (place - offset)
    buffer[torch.where(found.there & held, at, len(buffer) - 1)] = -torch.inf
    return slabs


def _runs(items: int, cpu: bool) -> tuple[int, int]:
    """Number and length of the runs that the scores of some items are sorted in."""
    if not items:
        return 0, 0
    runs = -(-items // _RUN) if cpu else 1
    return runs, -(-items // runs)


def _best_per_identity(slabs: list[_Slab], draw: Draw) -> Tensor:
    """Float32 [K, B, identities], each identity's best score in each group, -inf if absent."""
    rows, identities = len(slabs[0].runs), len(draw.positives)
    best = slabs[0].runs.new_full((len(slabs), rows, identities), -torch.inf)
    if not on_cpu(best):
        identity = draw.held(draw.identity)
        for into, slab, (begin, end) in zip(best, slabs, pairwise(draw.offsets), strict=True):
            index = identity[begin:end].expand(rows, -1)
            into.scatter_reduce_(1, index, slab.row(), "amax")
        return best
    for into, slab, starts, names in zip(
        best.numpy(), slabs, draw.starts, draw.segments, strict=True
    ):
        scores = slab.row().numpy()
        if 0 < len(starts) < slab.count:
            scores = np.maximum.reduceat(scores, starts, axis=1)
        into[:, names] = scores
    return best


def _sort(slabs: list[_Slab]) -> None:
    """Sorts every run in place, smallest first."""
    for slab in slabs:
        if on_cpu(slab.runs):
            slab.runs.numpy().sort(axis=-1)  # about ten times as fast as torch's, with its indices
        else:
            slab.runs.copy_(slab.runs.sort(dim=-1).values)


def _count_above(
    slabs: list[_Slab], found: _Positives, share: Share
) -> tuple[Tensor, Tensor | None]:
    """Per query, group and positive, the negatives that score higher, and those that tie.

    Returns:
        Two int32 [B, K, P]; None for the second if nothing ties, which is the rule.
    """
    rows, places = found.score.shape
    above = torch.zeros((rows, len(slabs), places), dtype=torch.int32, device=found.score.device)
    touched = torch.zeros((rows, len(slabs)), dtype=torch.bool, device=above.device)
    # Nothing is above what is not there, and nothing ties with it. A rising order saves a fifth of
    # the time of the search, by what the processor remembers of the search before.
    wanted = found.score.masked_fill(~found.there, torch.inf).flip(1)[:, None]
    for group, slab in enumerate(slabs):
        _, runs, length = slab.runs.shape
        if not runs:
            continue
        score = wanted.expand(-1, runs, -1).contiguous()
        right = torch.searchsorted(slab.runs, score, right=True, out_int32=True)
        above[:, group] = runs * length - right.sum(dim=1, dtype=torch.int32)
        under = slab.runs.gather(2, (right - 1).clamp_(min=0).long())
        touched[:, group] = (under == score).flatten(1).any(dim=1)
    above = share.sum(above.flip(2))
    if not share.any(bool(touched.any())):
        return above, None
    tied = torch.zeros_like(above)
    for group, slab in enumerate(slabs):
        some = touched[:, group].nonzero().flatten()
        if len(some):
            held = slab.runs[some]
            score = found.score[some, None].expand(-1, held.shape[1], -1).contiguous()
            right = torch.searchsorted(held, score, right=True, out_int32=True)
            left = torch.searchsorted(held, score, out_int32=True)
            tied[some, group] = (right - left).sum(dim=1, dtype=torch.int32)
    return above, share.sum(tied) * found.there[:, None]


def _earlier_ties(
    block: Tensor, draw: Draw, queries: Queries, found: _Positives, tied: Tensor
) -> Tensor:
    """Int32 [B, K, P], the tying negatives held that are before the positive in the feature set."""
    earlier = torch.zeros_like(tied)
    rows, identity = draw.held(draw.rows), draw.held(draw.identity)
    for group, (begin, end) in enumerate(pairwise(draw.offsets)):
        pairs = tied[:, group].nonzero()
        size = max(_TIE_ELEMENTS // max(end - begin, 1), 1)
        for start in range(0, len(pairs), size):
            query, place = pairs[start : start + size].unbind(dim=1)
            mine = found.item[query, place]
            equal = (
                block[query[:, None], draw.columns[begin:end]] == found.score[query, place, None]
            )
            equal &= rows[begin:end] < draw.rows[mine, None]
            equal &= identity[begin:end] != queries.identity[query, None]
            earlier[query, group, place] = equal.sum(dim=1, dtype=torch.int32)
    return earlier


def _first_identity(
    block: Tensor,
    draw: Draw,
    queries: Queries,
    found: _Positives,
    positive: Tensor,
    best: Tensor,
    tables: Tables,
    share: Share,
) -> Tensor:
    """Int64 [V, B], rank of the query's identity when each identity counts once, at its best."""
    listed = tables.listed > 0  # [U, K]
    nothing = best.new_full(best.shape[1:], -torch.inf)
    tops = [
        reduce(torch.maximum, (best[k] for k in allowed.nonzero().flatten().tolist()), nothing)
        for allowed in listed
    ]
    top = torch.stack(tops)[tables.which]  # [V, B, identities]
    lead = positive.to(torch.int8).argmax(dim=-1)  # the first of equals, which is the best
    score = found.score.gather(1, lead.T).T
    ahead = (top > score[..., None]).sum(dim=-1)
    equal = (top == score[..., None]).any(dim=-1) & positive.any(dim=-1)
    rows, identity, group = (draw.held(value) for value in (draw.rows, draw.identity, draw.group))
    pairs = equal.nonzero()
    earlier = torch.zeros((len(pairs), top.shape[2]), dtype=torch.uint8, device=top.device)
    size = max(_TIE_ELEMENTS // max(len(rows), 1), 1)
    for start in range(0, len(pairs), size):
        view, query = pairs[start : start + size].unbind(dim=1)
        mine = draw.rows[found.item[query, lead[view, query]]]
        tie = block[query[:, None], draw.columns] == score[view, query, None]
        tie &= (rows < mine[:, None]) & (identity != queries.identity[query, None])
        tie &= listed[tables.which[view]][:, group]
        pair, item = tie.nonzero(as_tuple=True)
        earlier[start + pair, identity[item]] = 1
    earlier = share.max(earlier)
    view, query = pairs.unbind(dim=1)
    level = top[view, query] == score[view, query, None]
    ahead[view, query] += (level & (earlier > 0)).sum(dim=1)
    return ahead + 1
