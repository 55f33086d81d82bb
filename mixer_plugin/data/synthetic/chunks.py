"""Renders and encodes chunks of images, in this process or in several fresh ones."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.synthetic.config import SyntheticConfig
from mixer_plugin.data.synthetic.factors import STRENGTH
from mixer_plugin.data.synthetic.images import render
from mixer_plugin.errors import MixERRuntimeError
from mixer_plugin.io.workers import WorkerPool

_PIXELS_PER_PROCESS = 2**25  # rendered in the time that a fresh process takes to import torch


class Chunk(NamedTuple):
    """The images ``start`` to ``stop`` of a data set: what each shows, and its files."""

    start: int
    stop: int
    rows: NDArray[np.void]
    paths: tuple[tuple[str, ...], ...]


def write_chunks(
    root: Path,
    config: SyntheticConfig,
    chunks: Sequence[Chunk],
    quality: int | None,
    workers: int,
    finished: Callable[[Chunk], None],
) -> None:
    """Writes chunks; each is reported when all of its files are there.

    On Ctrl-C, or an error in a chunk, those under way are finished and reported as well.

    Args:
        root: Folder to write below.
        config: The data set.
        chunks: What to write.
        quality: JPEG quality; None: bitmaps (BMP).
        workers: Processes at most; each must have enough to do to be worth its start.
        finished: Called in this process, with one chunk at a time.

    Raises:
        MixERRuntimeError: A worker process died.
    """
    pixels = sum(len(chunk.rows) for chunk in chunks) * config.height * config.width
    workers = min(workers, len(chunks), pixels // _PIXELS_PER_PROCESS)
    if workers <= 1:
        for chunk in chunks:
            _write(root, config, chunk, quality)
            finished(chunk)
        return
    pool = WorkerPool(workers, _set_strength, dict(STRENGTH))
    futures: dict[Future[None], Chunk] = {}
    try:
        for chunk in chunks:
            futures[pool.submit(_write, root, config, chunk, quality)] = chunk
        for future in as_completed(futures):
            future.result()
            finished(futures.pop(future))
    except BrokenProcessPool as error:
        raise MixERRuntimeError(
            "A process that wrote images died (out of memory?). What is finished is kept in "
            f"{root}: the same call continues there; give it fewer workers."
        ) from error
    except BaseException:
        pool.shutdown(cancel_futures=True)
        for future, chunk in futures.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                finished(chunk)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _set_strength(strength: dict[str, float]) -> None:
    STRENGTH.update(strength)


def _write(root: Path, config: SyntheticConfig, chunk: Chunk, quality: int | None) -> None:
    from PIL import Image

    for folder in {os.path.dirname(path) for places in chunk.paths for path in places}:
        os.makedirs(root / folder, exist_ok=True)
    pixels = render(config, chunk.rows)
    for image, places in zip(pixels, chunk.paths, strict=True):
        buffer = io.BytesIO()
        if quality is None:
            Image.fromarray(image).save(buffer, "BMP")
        else:
            Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        for path in places:
            (root / path).write_bytes(buffer.getvalue())
