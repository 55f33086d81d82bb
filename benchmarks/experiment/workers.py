"""Processes that train the jobs of a run: started, listened to, and ended with their work saved.

Under ``torchrun`` none is started: those that there are train every cell together.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.experiment.cells import Cell, Job
from mixer_plugin.benchmarks.experiment.run_cell import run_job
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.benchmarks.training.signals import Interrupted
from mixer_plugin.distributed.processes import count_processes, on_main_process, rank
from mixer_plugin.errors import MixERError, MixERRuntimeError
from mixer_plugin.io.progress import Progress
from mixer_plugin.io.workers import SAVING, WorkerPool, ctrl_c_waits

Event = dict[str, Any]


def missing_cells(jobs: list[Job], out: Path) -> list[tuple[Job, Cell]]:
    """The cells that are not finished."""
    return [(job, cell) for job in jobs for cell in job.missing(out)]


def check_cells(missing: list[tuple[Job, Cell]]) -> None:
    """Raises :class:`MixERValueError` where options do not go with a recipe or the processes."""
    for job, cell in missing:
        apart = cell.mode == "f" and cell.mixer is not None and not cell.mixer.frozen_base
        for recipe in cell.recipes:
            p, precision = recipe.identities_and_precision(job.network.baseline)
            job.training.check(p=p, precision=precision, apart=apart)


def train(jobs: list[Job], out: Path, workers: int, *, quiet: bool = False) -> None:
    """Runs the jobs in processes of one thread each, or one by one in those of ``torchrun``.

    Args:
        jobs: What to train.
        out: Result folder.
        workers: Processes.
        quiet: Whether nothing is said on stderr of how far it is.
    """
    missing = on_main_process("table3", lambda: missing_cells(jobs, out))
    if not missing:
        return
    lengths = {(job.name, cell.name): _length(cell) for job, cell in missing}
    if count_processes() > 1:
        show = _printer(lengths, quiet) if rank() == 0 else lambda event: None
        for job in jobs:
            run_job(job, out, show)
        show({"event": "end"})
        return
    with _relay(_printer(lengths, quiet)) as events, worker_pool(workers) as pool:
        futures = {pool.submit(_work, job, out, events): job for job in jobs}
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        _raise_first(futures, done)


def _length(cell: Cell) -> int | None:
    """Steps; None for a public recipe's, which follow from images that may not be there yet."""
    known = [recipe.iterations for recipe in cell.recipes if isinstance(recipe, Recipe)]
    return sum(known) if len(known) == len(cell.recipes) else None


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[WorkerPool]:
    """Fresh processes of one thread each; ended at once if anything goes wrong.

    On shared cores, processes of two threads each wait for each other up to ten times longer.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = WorkerPool(workers)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        _stop(pool)
        raise
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _raise_first(futures: dict[Future[None], Job], done: set[Future[None]]) -> None:
    for future in done:
        error = future.exception()
        if isinstance(error, MixERError):
            raise error
        if error is not None:
            raise MixERRuntimeError(
                f"The job {futures[future].name} failed: {type(error).__name__}: {error}. "
                "Finished cells are kept; --resume continues."
            ) from error


def _stop(pool: WorkerPool) -> None:
    """Ends the workers: a training saves first, anything else writes aside and renames."""
    workers = list((pool._processes or {}).values())
    for process in workers:
        process.terminate()
    try:
        for process in workers:
            process.join(SAVING)
    finally:
        for process in workers:
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def _work(job: Job, out: Path, events: Any) -> None:
    try:
        run_job(job, out, events.put)
    except Interrupted as stop:
        # At once: the pool would go on with the next job.
        os._exit(stop.status)


@contextlib.contextmanager
def _relay(show: Callable[[Event], None]) -> Iterator[Any]:
    """A queue whose events are shown by a thread of this process."""
    with ctrl_c_waits():
        manager = multiprocessing.get_context("spawn").Manager()
    with manager:
        events = manager.Queue()
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                with contextlib.suppress(queue.Empty, EOFError, OSError):
                    show(events.get(timeout=0.2))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield events
        finally:
            stop.set()
            thread.join(timeout=2)
            show({"event": "end"})


def _printer(lengths: Mapping[tuple[str, str], int | None], quiet: bool) -> Callable[[Event], None]:
    """Returns a function that shows events: with a bar on a terminal, as JSON lines elsewhere.

    Args:
        lengths: (job, cell) still to train → its optimizer steps; None: its first event says.
        quiet: whether nothing is shown.
    """
    progress = Progress("trained", "steps", quiet=quiet)
    left = dict(lengths)
    before: dict[tuple[str, str], int] = {}
    done: dict[tuple[str, str], int] = {}

    def show(event: Event) -> None:
        kind, key = event["event"], (event.get("job", ""), event.get("cell", ""))
        if kind == "step":
            # A resumed cell starts where its checkpoint was: those steps are not of this run.
            before.setdefault(key, event["step"] - event["every"])
            done[key] = event["step"] - before[key]
            total = _expected(left) - sum(before.values())
            names = {name: event[name] for name in ("job", "cell", "loss")}
            progress(sum(done.values()), max(total, sum(done.values())), **names)
        elif sys.stderr.isatty():
            name = " ".join(key)
            told = {
                "warning": lambda: f"warning: {name}: {event['advice']}",
                "done": lambda: f"done: {name} in {event['seconds']} s",
            }
            if kind in told:
                progress.note(told[kind]())
        else:
            record = {"time": time.strftime("%H:%M:%S"), **event}
            progress.note(json.dumps(record, default=str))
        if kind == "start":
            left[key] = event["steps"]
        if kind == "end":
            progress.end()

    return show


def _expected(lengths: Mapping[Any, int | None]) -> int:
    """Steps of all cells; one that has not begun may take as many as the others do on average."""
    known = [length for length in lengths.values() if length is not None]
    return sum(known) * len(lengths) // max(len(known), 1)
