"""Runs work ahead in threads and yields results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from mixer_plugin.errors import check_least

Given = TypeVar("Given")
Made = TypeVar("Made")


def prefetch(
    make: Callable[[Given], Made], items: Iterable[Given], *, depth: int = 2, workers: int = 1
) -> Generator[Made, None, None]:
    """Yields ``make(item)`` of each item in order, computed ahead by threads.

    An error in ``make`` is raised here with its traceback, when its item's turn comes. No thread
    outlives the iterator: its end, an error, Ctrl-C, ``close()`` and its deletion all wait for
    the calls under way and drop those not begun. Close it explicitly
    (``with contextlib.closing(…)``) where iteration may stop early.

    Args:
        make: Called in a worker thread, once per item.
        items: Read one by one in the caller's thread.
        depth: Results waiting or being made, at most.
        workers: Threads.

    Returns:
        A generator, for ``for`` and ``close()``.

    Raises:
        MixERValueError: ``depth`` or ``workers`` is less than 1.
    """
    check_least("workers", workers)
    check_least("depth", depth)
    return _made_ahead(make, iter(items), depth, workers)


def _made_ahead(
    make: Callable[[Given], Made], items: Iterator[Given], depth: int, workers: int
) -> Generator[Made, None, None]:
    pool = ThreadPoolExecutor(min(workers, depth), thread_name_prefix="prefetch")
    try:
        begun: deque[Future[Made]] = deque(pool.submit(make, item) for item in islice(items, depth))
        while begun:
            result = begun.popleft().result()
            begun.extend(pool.submit(make, item) for item in islice(items, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
