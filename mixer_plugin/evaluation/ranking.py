"""Exact ranks of all positives, for every setting and trial, in one pass over the scores.

Whole rows of the score matrix are made at a time: positives and negatives come from the same
product, so that rounding cannot rank a pair differently in two places. A block of queries is one
thread's work from product to metrics, and blocks and tiles are cut alike whoever works on them:
the numbers do not depend on the number of threads or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.evaluation.block_ranks import Tables, rank_block
from mixer_plugin.evaluation.distributed import ALONE, Share
from mixer_plugin.evaluation.gallery import Gallery
from mixer_plugin.evaluation.metrics import QueryMetrics
from mixer_plugin.evaluation.scoring import Key, Queries, Score
from mixer_plugin.evaluation.settings import View
from mixer_plugin.products import full_float32
from mixer_plugin.scratch import Scratch

_BLOCK_BYTES = {"cpu": 32 * 2**20, "cuda": 256 * 2**20}
LEAST_ROWS = 64
_MOST_ROWS = {"cpu": 256, "cuda": 512}
_PART_ELEMENTS = 2**20  # what is ranked at once should stay in a processor's cache


def rank(
    queries: Queries,
    gallery: Gallery,
    score: Score,
    keys: Sequence[Key],
    views: Sequence[View],
    *,
    dedup: bool,
    rows: Share = ALONE,
    columns: Share = ALONE,
) -> dict[Key, QueryMetrics]:
    """Ranks the positives of every query under every key, view and draw.

    Args:
        queries: Queries of one modality.
        gallery: The draws, on the device of the features.
        score: Makes the scores of some queries, for each key.
        keys: What it makes.
        views: Settings.
        dedup: Whether the CMC counts each identity once.
        rows: The processes that divide the queries.
        columns: The processes that divide the gallery; then all go through the same queries.

    Returns:
        The metrics of each query, the same in every process.
    """
    tables = _stack(views, queries.rows.device)
    shape = (len(gallery.draws), len(views), len(queries.rows))
    results = {key: QueryMetrics.zeros(*shape) for key in keys}
    # Ranks of queries with one identity touch the same columns: neighbours in memory.
    order = torch.argsort(queries.identity, stable=True)
    whole = sum(part.columns.stop - part.columns.start for part in gallery.tiles)
    size = block_rows(int(columns.sum(torch.tensor(whole))), queries.rows.device)
    blocks = rows.deal([order[start : start + size] for start in range(0, len(order), size)])

    def work(chosen: Tensor, scratch: Scratch) -> None:
        asked = queries.part(chosen)
        for key, scores in score(asked, scratch):
            for trial, draw in enumerate(gallery.draws):
                step = max(_PART_ELEMENTS // max(len(draw.columns), 1), 1)
                if columns.count > 1 or scores.device.type != "cpu":
                    step = len(chosen)
                for start in range(0, len(chosen), step):
                    part = slice(start, start + step)
                    ranked = rank_block(
                        *(scores[part], draw, asked.part(part), tables, scratch, columns),
                        dedup=dedup,
                    )
                    at = chosen[part].cpu().numpy()
                    for field, value in ranked.items():
                        getattr(results[key], field)[trial][:, at] = value.cpu().numpy()

    # Around the threads, not in them: the precision of products is a setting of the process.
    with full_float32(queries.rows.device):
        _in_threads(work, blocks, queries.rows.device, alone=columns.count > 1)
    return {key: metrics.joined(rows) for key, metrics in results.items()}


def block_rows(columns: int, device: torch.device) -> int:
    """Queries per block: bounded memory, yet enough for products to run at full speed."""
    kind = "cpu" if device.type == "cpu" else "cuda"
    return min(_MOST_ROWS[kind], max(LEAST_ROWS, _BLOCK_BYTES[kind] // (4 * max(columns, 1))))


def _stack(views: Sequence[View], device: torch.device) -> Tables:
    listed, which = np.unique(
        np.stack([view.listed for view in views]), axis=0, return_inverse=True
    )
    positive = np.stack([view.positive for view in views])
    return Tables(
        torch.from_numpy(listed).to(device, torch.float64),
        torch.from_numpy(which.reshape(-1)).to(device),
        torch.from_numpy(positive).to(device),
    )


def _in_threads(
    work: Callable[[Tensor, Scratch], None],
    blocks: Iterable[Tensor],
    device: torch.device,
    *,
    alone: bool,
) -> None:
    """Works through the blocks, on a CPU with as many threads as torch uses.

    NumPy's sort uses one thread, and torch's small steps lose more in waiting for each other than
    they win, so that each block is one thread's.

    Args:
        work: What to do with a block and a thread's memory.
        blocks: The blocks.
        device: Where the work is done.
        alone: Whether only one thread may work, since processes wait for each other in it.
    """
    left = iter(blocks)

    def drain() -> None:
        scratch = Scratch()
        # `next` on one iterator is safe among threads; each block goes to one of them.
        while (block := next(left, None)) is not None:
            work(block, scratch)

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
