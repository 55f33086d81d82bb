"""Worker processes that Ctrl-C does not reach, and that end when their parent does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import resource_tracker
from typing import Any

SAVING = 60.0  # seconds that a worker gets for the running step and its checkpoint


class WorkerPool(ProcessPoolExecutor):
    """Fresh processes of one thread each; a forked one may hang in the threads of torch."""

    def __init__(self, workers: int, start: Callable[..., Any] | None = None, *given: Any) -> None:
        """Starts no process yet.

        Args:
            workers: Processes at most.
            start: Called first in each of them; must pickle.
            *given: Its arguments.
        """
        context = multiprocessing.get_context("spawn")
        super().__init__(workers, context, _start, (start, given))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As the standard library's; what it starts never gets Ctrl-C."""
        with ctrl_c_waits():
            return super().submit(fn, *args, **kwargs)


@contextlib.contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C comes after the block; a process that the block starts never gets it.

    Python imports modules before any code of ours can ignore a signal. A mask is inherited.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its own start ends with SIGINT unblocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(start: Callable[..., Any] | None, given: tuple[Any, ...]) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*given)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next job for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # a training saves first
    time.sleep(SAVING)
    os._exit(128 + signal.SIGTERM)
