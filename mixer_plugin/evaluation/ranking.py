"""Exact ranks of all positives, for every setting and trial, in one pass over the scores.

What a setting removes for a query depends on the camera, or on camera and identity. So the items of
other identities ("negatives") in a list are whole cameras, and it is enough to know, for each
positive and camera, how many negatives score higher. That takes one sort of the values (not of the
indices, which is several times slower) per row and camera, and a binary search of the positives.
Whole rows of the score matrix are made at a time: positives and negatives come from the same
product, so that rounding cannot rank a pair differently in two places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from threading import Barrier

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.arrays import empty
from mixer_plugin.evaluation.gallery import Draw, Gallery
from mixer_plugin.evaluation.metrics import (
    QueryMetrics,
    average_precision,
    first_rank,
    inverse_negative_penalty,
)
from mixer_plugin.evaluation.settings import View
from mixer_plugin.matching import UnitFeatures, UnitSource, score_blocks, znorm_
from mixer_plugin.rules import Rule

_BLOCK_BYTES = 256 * 2**20
_TIE_ELEMENTS = 2**22


@dataclass(frozen=True)
class Queries:
    """Queries of one modality.

    Attributes:
        rows: int64 [Q], row in the feature set.
        group: int64 [Q].
        identity: int64 [Q], index of the identity.
        modality: Their modality.
    """

    rows: Tensor
    group: Tensor
    identity: Tensor
    modality: int

    def part(self, index: Tensor | slice) -> Queries:
        """Some of the queries."""
        return Queries(self.rows[index], self.group[index], self.identity[index], self.modality)


@dataclass(frozen=True)
class _Tables:
    """The views stacked; settings that list the same negatives share a row of ``listed``."""

    listed: Tensor  # float64 [U, K, K]
    which: Tensor  # int64 [V], the row of `listed` of each view
    positive: Tensor  # bool [V, K, K]


def rank(
    queries: Queries,
    gallery: Gallery,
    source: UnitSource,
    items: UnitFeatures,
    views: Sequence[View],
    rules: dict[str, Rule],
    calibrations: Sequence[str | None],
    *,
    dedup: bool,
) -> dict[tuple[str, str | None], QueryMetrics]:
    """Ranks the positives of every query under every rule, view and draw.

    Args:
        queries: Queries of one modality.
        gallery: The draws, on the device of the features.
        source: Features of the queries.
        items: Features of the gallery, in its order.
        views: Settings.
        rules: Rules by name; they share the products.
        calibrations: None or ``znorm`` for score matrices as made, or standardised per row.
            (``center`` changes the features: then it is ``source`` and ``items`` that differ.)
        dedup: Whether the CMC counts each identity once.

    Returns:
        By rule and calibration, the metrics of each query.
    """
    tables = _stack(views, queries.rows.device)
    shape = (len(gallery.draws), len(views), len(queries.rows))
    results = {
        (name, calibration): QueryMetrics.empty(*shape)
        for name in rules
        for calibration in calibrations
    }
    # Ranks of queries with one identity touch the same columns: neighbours in memory.
    order = torch.argsort(queries.identity, stable=True)
    size = block_rows(len(gallery.rows))
    scratch = empty((min(size, len(order)), len(gallery.rows)), items.parts["erased"])
    with _pool(queries.rows.device) as pool:
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            block = queries.part(chosen)
            where = chosen.cpu().numpy()
            own = _own_column(block, gallery)
            parts = score_blocks(
                source.rows(block.rows), items, gallery.split, queries.modality, rules, scratch
            )
            for name, plain in parts:
                for calibration in sorted(calibrations, key=lambda given: given or ""):
                    # None sorts first, so that `plain` may be overwritten by the other.
                    if calibration == "znorm":
                        znorm_(plain, gallery.split, own)
                    target = results[name, calibration]
                    for trial, draw in enumerate(gallery.draws):
                        for part, ranked in _in_parts(plain, draw, block, tables, dedup, pool):
                            for field, value in ranked.items():
                                getattr(target, field)[trial][:, where[part]] = value.cpu().numpy()
    return results


def block_rows(columns: int) -> int:
    """Queries per block: bounded memory, yet enough for products to run at full speed."""
    return min(512, max(64, _BLOCK_BYTES // (4 * columns)))


def _stack(views: Sequence[View], device: torch.device) -> _Tables:
    listed, which = np.unique(
        np.stack([view.listed for view in views]), axis=0, return_inverse=True
    )
    positive = np.stack([view.positive for view in views])
    return _Tables(
        torch.from_numpy(listed).to(device, torch.float64),
        torch.from_numpy(which.reshape(-1)).to(device),
        torch.from_numpy(positive).to(device),
    )


def _own_column(queries: Queries, gallery: Gallery) -> Tensor:
    """Int64 [Q], the column of each query itself, -1 where the gallery lacks it."""
    rows, order = gallery.rows.sort()
    place = torch.searchsorted(rows, queries.rows).clamp(max=len(rows) - 1)
    return torch.where(rows[place] == queries.rows, order[place], -1)


@contextmanager
def _pool(device: torch.device) -> Iterator[ThreadPoolExecutor | None]:
    """As many threads as torch uses, each of them ranking rows by itself.

    NumPy's sort uses one thread, and torch's small steps lose more in waiting for each other than
    they win. Products are made in between, by all of torch's threads.
    """
    threads = torch.get_num_threads()
    has_openmp: Callable[[], bool] = torch.backends.openmp.is_available
    if device.type != "cpu" or threads == 1 or not has_openmp():
        yield None
        return
    ready = Barrier(threads + 1)

    def start() -> None:
        # Under OpenMP this holds for the calling thread. It also sets what threads that first use
        # torch later will take, so the caller puts that back.
        torch.set_num_threads(1)
        ready.wait()

    with ThreadPoolExecutor(threads) as pool:
        tasks = [pool.submit(start) for _ in range(threads)]
        ready.wait()
        torch.set_num_threads(threads)
        for task in tasks:
            task.result()
        yield pool


def _in_parts(
    block: Tensor,
    draw: Draw,
    queries: Queries,
    tables: _Tables,
    dedup: bool,
    pool: ThreadPoolExecutor | None,
) -> Iterable[tuple[slice, dict[str, Tensor]]]:
    """Ranks the rows of a block, in parts on the threads of the pool; yields rows and metrics."""

    def work(part: slice) -> tuple[slice, dict[str, Tensor]]:
        return part, _rank_block(block[part], draw, queries.part(part), tables, dedup)

    rows = len(block)
    if pool is None:
        return [work(slice(0, rows))]
    # More parts than threads: one that is held up leaves its share to the others.
    step = min(128, -(-rows // torch.get_num_threads()))
    return pool.map(work, [slice(i, i + step) for i in range(0, rows, step)])


def _rank_block(
    block: Tensor,
    draw: Draw,
    queries: Queries,
    tables: _Tables,
    dedup: bool,
) -> dict[str, Tensor]:
    """Metrics [V, B] of a score block [B, columns], by field of ``QueryMetrics``."""
    found = _positives(block, draw, queries)
    slabs = _negatives(block, draw, found)
    best = _best_per_identity(slabs, draw) if dedup else None
    _sort(slabs)
    above, tied = _count_above(slabs, found)
    listed = tables.listed[:, queries.group]  # [U, B, K]

    def negatives(counts: Tensor) -> Tensor:  # [B, K, P] -> [V, B, P]
        return torch.einsum("ubk,bkp->ubp", listed, counts.double())[tables.which]

    positive = tables.positive[:, queries.group[:, None], draw.group[found.item]]
    positive &= found.there & (draw.rows[found.item] != queries.rows[:, None])
    ahead = optimistic = negatives(above)
    if tied is not None:
        ahead = negatives(above + _earlier_ties(block, draw, queries, found, tied))
    ap = average_precision(positive, ahead)
    count = positive.sum(dim=-1)
    if best is None:
        first = first_rank(positive, ahead)
    else:
        first = _first_identity(block, draw, queries, found, positive, best, tables)
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


def _positives(block: Tensor, draw: Draw, queries: Queries) -> _Positives:
    item = draw.positives[queries.identity]
    width = int((item >= 0).sum(dim=1).max())
    item = item[:, : max(width, 1)]
    there = item >= 0
    score = block.gather(1, draw.columns[item.clamp(min=0)]).masked_fill_(~there, -torch.inf)
    # Stable, and the table lists each identity's items by row.
    score, order = score.sort(dim=1, descending=True, stable=True)
    item = item.gather(1, order)
    return _Positives(item.clamp(min=0), score, item >= 0)


def _negatives(block: Tensor, draw: Draw, found: _Positives) -> list[Tensor]:
    """Per group a contiguous copy [B, items] of the scores, the query's identity at -inf."""
    rows = len(block)
    # One slot more than there are scores: what padding points to.
    buffer = empty((rows * len(draw.columns) + 1,), block)
    slabs = []
    for begin, end in pairwise(draw.offsets):
        slab = buffer[rows * begin : rows * end].view(rows, end - begin)
        if draw.whole:
            slab.copy_(block[:, begin:end])
        else:
            torch.index_select(block, 1, draw.columns[begin:end], out=slab)
        slabs.append(slab)
    offsets = torch.tensor(draw.offsets, device=block.device)
    group = draw.group[found.item]
    first = offsets[group]
    width = offsets[group + 1] - first
    row = torch.arange(rows, device=block.device)[:, None]
    place = rows * first + row * width + (found.item - first)
    buffer[torch.where(found.there, place, len(buffer) - 1)] = -torch.inf
    return slabs


def _best_per_identity(slabs: list[Tensor], draw: Draw) -> Tensor:
    """Float32 [B, K, identities], each identity's best score in each group, -inf if absent."""
    rows, identities = len(slabs[0]), len(draw.positives)
    best = slabs[0].new_full((rows, len(slabs), identities), -torch.inf)
    if best.device.type != "cpu":
        for group, (slab, (begin, end)) in enumerate(
            zip(slabs, pairwise(draw.offsets), strict=True)
        ):
            index = draw.identity[begin:end].expand(rows, -1)
            best[:, group].scatter_reduce_(1, index, slab, "amax")
        return best
    target = best.numpy()
    for group, (slab, starts, names) in enumerate(
        zip(slabs, draw.starts, draw.segments, strict=True)
    ):
        if len(starts):
            target[:, group, names] = np.maximum.reduceat(slab.numpy(), starts, axis=1)
    return best


def _sort(slabs: list[Tensor]) -> None:
    """Sorts every row of every slab in place, smallest first."""
    for slab in slabs:
        if slab.device.type == "cpu":
            slab.numpy().sort(axis=1)  # about ten times as fast as torch's sort, with its indices
        else:
            slab.copy_(slab.sort(dim=1).values)


def _count_above(slabs: list[Tensor], found: _Positives) -> tuple[Tensor, Tensor | None]:
    """Per query, group and positive, the negatives that score higher, and those that tie.

    Returns:
        Two int32 [B, K, P]; None for the second if nothing ties, which is the rule.
    """
    above, touching = [], []
    for slab in slabs:
        right = torch.searchsorted(slab, found.score, right=True, out_int32=True)
        above.append(slab.shape[1] - right)
        if slab.shape[1]:
            under = slab.gather(1, (right - 1).clamp_(min=0).long())
            touching.append((under == found.score) & found.there)
    if not any(bool(touch.any()) for touch in touching):
        return torch.stack(above, dim=1), None
    tied = [
        slab.shape[1] - torch.searchsorted(slab, found.score, out_int32=True) - higher
        for slab, higher in zip(slabs, above, strict=True)
    ]
    return torch.stack(above, dim=1), torch.stack(tied, dim=1) * found.there[:, None]


def _earlier_ties(
    block: Tensor, draw: Draw, queries: Queries, found: _Positives, tied: Tensor
) -> Tensor:
    """Int32 [B, K, P], the tying negatives that come before the positive in the feature set."""
    earlier = torch.zeros_like(tied)
    for group, (begin, end) in enumerate(pairwise(draw.offsets)):
        pairs = tied[:, group].nonzero()
        size = max(_TIE_ELEMENTS // max(end - begin, 1), 1)
        for start in range(0, len(pairs), size):
            query, place = pairs[start : start + size].unbind(dim=1)
            mine = found.item[query, place]
            equal = (
                block[query[:, None], draw.columns[begin:end]] == found.score[query, place, None]
            )
            equal &= draw.rows[begin:end] < draw.rows[mine, None]
            equal &= draw.identity[begin:end] != queries.identity[query, None]
            earlier[query, group, place] = equal.sum(dim=1, dtype=torch.int32)
    return earlier


def _first_identity(
    block: Tensor,
    draw: Draw,
    queries: Queries,
    found: _Positives,
    positive: Tensor,
    best: Tensor,
    tables: _Tables,
) -> Tensor:
    """Int64 [V, B], rank of the query's identity when each identity counts once, at its best."""
    listed = tables.listed[:, queries.group] > 0  # [U, B, K]
    tops = [best.masked_fill(~allowed[:, :, None], -torch.inf).amax(dim=1) for allowed in listed]
    top = torch.stack(tops)[tables.which]  # [V, B, identities]
    lead = positive.to(torch.int8).argmax(dim=-1)  # the first of equals, which is the best
    score = found.score.gather(1, lead.T).T
    ahead = (top > score[..., None]).sum(dim=-1)
    equal = (top == score[..., None]).any(dim=-1) & positive.any(dim=-1)
    for view, query in equal.nonzero().tolist():
        row = draw.rows[found.item[query, lead[view, query]]]
        tie = block[query, draw.columns] == score[view, query]
        tie &= (draw.rows < row) & (draw.identity != queries.identity[query])
        tie &= listed[tables.which[view], query][draw.group]
        names = torch.unique(draw.identity[tie])
        ahead[view, query] += (top[view, query, names] == score[view, query]).sum()
    return ahead + 1
