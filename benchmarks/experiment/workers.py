"""Processes that train the jobs of a run: started, listened to, and ended with their work saved.

Under ``torchrun`` none is started: those that there are train every cell together.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from mixer_plugin.benchmarks.experiment.cells import Job, mixer_config
from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.experiment.networks import recipes_of
from mixer_plugin.benchmarks.experiment.progress import Event, printer
from mixer_plugin.benchmarks.experiment.run_cell import run_job
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.ranks import on_main_process, rank
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.benchmarks.training.signals import Interrupted
from mixer_plugin.distributed.gather import count_processes
from mixer_plugin.errors import MixERError, MixERRuntimeError

_SAVING = 60.0  # seconds that a worker gets for the running step and its checkpoint


def missing_cells(jobs: list[Job], out: Path) -> list[tuple[Job, str]]:
    """The cells that are not finished."""
    every = [(job, cell) for job in jobs for cell in job.cells]
    return [(j, c) for j, c in every if not (out / "cells" / j.name / f"{c}.json").exists()]


def check_cells(config: Table3Config, missing: list[tuple[Job, str]]) -> None:
    """Raises :class:`MixERValueError` where options do not go with a recipe or the processes."""
    for job, cell in missing:
        mode, mixer = mixer_config(cell, config)
        apart = cell != "baseline" and mode == "f" and not mixer.frozen_base
        for recipe in recipes_of(config, cell):
            if isinstance(recipe, Recipe):
                p, precision = recipe.p, recipe.precision
            else:
                facts = recipe.facts(job.baseline)
                p = recipe.identities or int(facts["batch"]["identities"])
                precision = facts["precision"]
            config.training.check(p=p, precision=precision, apart=apart)


def train(config: Table3Config, jobs: list[Job], out: Path) -> None:
    """Runs the jobs in processes of one thread each, or one by one in those of ``torchrun``."""
    missing = on_main_process(lambda: missing_cells(jobs, out))
    if not missing:
        return
    if count_processes() > 1:
        show = printer(_lengths(config, missing)) if rank() == 0 else _nothing
        for job in jobs:
            run_job(config, job, out, show)
        show({"event": "end"})
        return
    with _relay(printer(_lengths(config, missing))) as events, worker_pool(config.workers) as pool:
        futures = {pool.submit(_work, config, job, out, events): job for job in jobs}
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        _raise_first(futures, done)


def _lengths(
    config: Table3Config, missing: list[tuple[Job, str]]
) -> dict[tuple[str, str], int | None]:
    """Steps by job and cell; a public recipe's follow from images that may not be there yet."""

    def steps(recipes: list[Recipe | PublicRecipe]) -> int | None:
        known = [recipe.iterations for recipe in recipes if isinstance(recipe, Recipe)]
        return sum(known) if len(known) == len(recipes) else None

    return {(job.name, cell): steps(recipes_of(config, cell)) for job, cell in missing}


def _nothing(event: Event) -> None:
    """Progress is the first process's to show."""


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes of one thread each; ended at once if anything goes wrong.

    On shared cores, processes of two threads each wait for each other up to ten times longer.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
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


def _stop(pool: ProcessPoolExecutor) -> None:
    """Ends the workers: a training saves first, anything else writes aside and renames."""
    workers = list((pool._processes or {}).values())
    for process in workers:
        process.terminate()
    try:
        for process in workers:
            process.join(_SAVING)
    finally:
        for process in workers:
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def _work(config: Table3Config, job: Job, out: Path, events: Any) -> None:
    try:
        run_job(config, job, out, events.put)
    except Interrupted as stop:
        # At once: the pool would go on with the next job.
        os._exit(stop.status)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)


@contextlib.contextmanager
def _relay(show: Callable[[Event], None]) -> Iterator[Any]:
    """A queue whose events are shown by a thread of this process."""
    with multiprocessing.get_context("spawn").Manager() as manager:
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
