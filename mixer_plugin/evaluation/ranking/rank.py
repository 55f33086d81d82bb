"""Exact ranks of all positives, for every setting and trial, in one pass over the scores.

Whole rows of the score matrix are made at a time: positives and negatives come from the same
product, so that rounding cannot rank a pair differently in two places. A block of queries is one
thread's work from product to metrics, and blocks and tiles are cut alike whoever works on them:
the numbers do not depend on the number of threads or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier

import torch
from torch import Tensor

from mixer_plugin.distributed.processes import ALONE, Share
from mixer_plugin.evaluation.ranking.gallery_layout import Gallery
from mixer_plugin.evaluation.ranking.metrics import QueryMetrics
from mixer_plugin.evaluation.ranking.rank_block import rank_block, stack
from mixer_plugin.evaluation.ranking.scoring import Queries, Score
from mixer_plugin.evaluation.settings import SettingMask
from mixer_plugin.matching.rules import System
from mixer_plugin.matching.similarity import full_float32
from mixer_plugin.matching.workspace import Workspace

_BLOCK_BYTES = {"cpu": 32 * 2**20, "cuda": 256 * 2**20}
LEAST_ROWS = 64
_MOST_ROWS = {"cpu": 256, "cuda": 512}
_PART_ELEMENTS = 2**20  # what is ranked at once should stay in a processor's cache


def rank(
    queries: Queries,
    gallery: Gallery,
    score: Score,
    systems: Sequence[System],
    views: Sequence[SettingMask],
    *,
    dedup: bool,
    rows: Share = ALONE,
    columns: Share = ALONE,
) -> dict[System, QueryMetrics]:
    """Ranks the positives of every query under every system, view and draw.

    Args:
        queries: Queries of one modality.
        gallery: The draws, on the device of the features.
        score: Makes the scores of some queries, for each system.
        systems: What it makes.
        views: Settings.
        dedup: Whether the CMC counts each identity once.
        rows: The processes that divide the queries.
        columns: The processes that divide the gallery; then all go through the same queries.

    Returns:
        The metrics of each query, the same in every process.
    """
    device = queries.rows.device
    tables = {group: stack(views, group, device) for group in set(queries.group.tolist())}
    shape = (len(gallery.draws), len(views), len(queries.rows))
    results = {system: QueryMetrics.zeros(*shape) for system in systems}
    # All settings are the same for the queries of a group; ranks of those with one identity touch
    # the same columns, neighbours in memory.
    order = torch.argsort(queries.identity, stable=True)
    order = order[torch.argsort(queries.group[order], stable=True)]
    whole = sum(part.columns.stop - part.columns.start for part in gallery.tiles)
    size = block_rows(int(columns.sum(torch.tensor(whole))), device)
    blocks = rows.deal([order[start : start + size] for start in range(0, len(order), size)])

    def work(chosen: Tensor, workspace: Workspace) -> None:
        asked = queries.part(chosen)
        where = chosen.cpu().numpy()
        for system, scores in score(asked, workspace):
            for trial, draw in enumerate(gallery.draws):
                for part in _parts(asked.group, len(draw.columns), columns):
                    some = asked.part(part)
                    ranked = rank_block(
                        *(scores[part], draw, some, tables[int(some.group[0])], workspace, columns),
                        dedup=dedup,
                    )
                    for field, value in ranked.items():
                        getattr(results[system], field)[trial][:, where[part]] = value.cpu().numpy()

    # Around the threads, not in them: the precision of products is a setting of the process.
    with full_float32(device):
        in_threads(work, blocks, device, alone=columns.count > 1)
    return {system: metrics.joined(rows) for system, metrics in results.items()}


def block_rows(columns: int, device: torch.device) -> int:
    """Queries per block: bounded memory, yet enough for products to run at full speed."""
    kind = "cpu" if device.type == "cpu" else "cuda"
    return min(_MOST_ROWS[kind], max(LEAST_ROWS, _BLOCK_BYTES[kind] // (4 * max(columns, 1))))


def _parts(group: Tensor, items: int, columns: Share) -> list[slice]:
    """Cuts a block into parts of one group each, on a CPU so small that a part stays in its cache.

    ``group``, int64 [B], is sorted; processes that divide the gallery's columns must cut alike.
    """
    step = len(group)
    if group.device.type == "cpu" and columns.count == 1:
        step = max(_PART_ELEMENTS // max(items, 1), 1)
    ends = torch.unique_consecutive(group, return_counts=True)[1].cumsum(0).tolist()
    return [
        slice(start, min(start + step, end))
        for begin, end in pairwise([0, *ends])
        for start in range(begin, end, step)
    ]


def in_threads(
    work: Callable[[Tensor, Workspace], object],
    blocks: Iterable[Tensor],
    device: torch.device,
    *,
    alone: bool = False,
) -> None:
    """Works through the blocks, on a CPU with as many threads as torch uses.

    NumPy's sort uses one thread, and torch's small steps lose more in waiting for each other than
    they win, so that each block is one thread's, which ``work`` gets with the thread's memory. One
    thread works ``alone`` where processes wait for each other in it.
    """
    left = iter(blocks)

    def drain() -> None:
        workspace = Workspace()
        # `next` on one iterator is safe among threads; each block goes to one of them.
        while (block := next(left, None)) is not None:
            work(block, workspace)

    threads = torch.get_num_threads()
    has_openmp: Callable[[], bool] = torch.backends.openmp.is_available
    if device.type != "cpu" or not has_openmp():
        return drain()
    count = 1 if alone else threads
    ready = Barrier(count + 1)

    def start() -> None:
        # Under OpenMP this holds for the calling thread. It also sets what threads that first use
        # torch later will take, so the caller puts that back.
        torch.set_num_threads(1)
        ready.wait()
        drain()

    with ThreadPoolExecutor(count) as pool:
        tasks = [pool.submit(start) for _ in range(count)]
        ready.wait()
        torch.set_num_threads(threads)
        for task in tasks:
            task.result()
