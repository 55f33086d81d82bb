"""The main job: baseline, (f)+MixER and e2e+MixER, with their controls, as a Table 3.

``mixer-plugin table3 --config FILE --out DIR`` or
``python -m mixer_plugin.benchmarks.table3 --config FILE --out DIR``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixer_plugin.benchmarks import cells
from mixer_plugin.benchmarks.cells import CUES, Job, plan_jobs, write_json
from mixer_plugin.benchmarks.comparisons import Measured
from mixer_plugin.benchmarks.config import Table3Config, load_config
from mixer_plugin.benchmarks.pictures import choose_query, forest_plot, top_ten
from mixer_plugin.benchmarks.progress import Event, printer
from mixer_plugin.benchmarks.recipes import Recipe, plain
from mixer_plugin.benchmarks.report import all_tables, differences_json, rows_csv
from mixer_plugin.benchmarks.run_card import (
    data_fingerprint,
    differences,
    fingerprint,
    run_card,
)
from mixer_plugin.benchmarks.signals import Interrupted, sigterm_raises
from mixer_plugin.benchmarks.train_log import summary_writer
from mixer_plugin.errors import MixERError, MixERRuntimeError, MixERValueError
from mixer_plugin.evaluation import Results, evaluate, get_protocol
from mixer_plugin.features import FeatureSet

CALIBRATIONS = (None, "znorm", "center")
_SAVING = 60.0  # seconds that a worker gets for the running step and its checkpoint


def run(config: Table3Config, out: Path, *, resume: bool = False) -> str:
    """Runs a benchmark into a folder and returns its tables as Markdown.

    Args:
        config: what to run.
        out: result folder; made if missing.
        resume: continue in a folder that holds results of the same configuration. Finished cells
            are kept, an interrupted one goes on from its last checkpoint, with the same numbers.

    Raises:
        MixERError: if the folder cannot be written, holds results and ``resume`` is off, or holds
            those of another configuration; or if a job fails.
        KeyboardInterrupt: on Ctrl-C, and :class:`Interrupted` on SIGTERM; running trainings save
            first, finished cells stay.
    """
    with sigterm_raises():
        return _run(config, out, resume)


def _run(config: Table3Config, out: Path, resume: bool) -> str:
    settings = dataclasses.asdict(config)
    jobs = plan_jobs(config)
    _prepare(config, jobs, out)
    _claim(out, settings, resume)
    train(config, jobs, out)
    measured = measure(config, jobs, out)
    tables = all_tables(measured, config.protocol)
    summaries = [_summary(out, job, cell) for job in jobs for cell in job.cells]
    commits = sorted({summary["commit"] for summary in summaries})
    title = [f"# {config.name}: baseline, (f)+MixER, e2e+MixER", ""]
    if len(commits) > 1:
        title += [f"NOTE: these cells were trained by different code: {', '.join(commits)}.", ""]
    markdown = "\n".join([*title, *(t.to_markdown() for t in tables)])
    _write(out / "table3.md", markdown)
    _write(out / "table3.tex", "\n".join(t.to_latex() for t in tables))
    _write(out / "table3.csv", rows_csv(measured))
    _write(out / "table3.json", differences_json(measured))
    draw(config, measured, out)
    roots = sorted({cells.data_root(config, job, out) for job in jobs})
    card = run_card(
        settings,
        data={root.name: data_fingerprint(root) for root in roots},
        protocol=get_protocol(config.protocol).describe(),
        cells=summaries,
    )
    write_json(out / "run_card.json", card)
    return markdown


def _prepare(config: Table3Config, jobs: list[Job], out: Path) -> None:
    """Finds what is missing before the folder is claimed, and before every worker would."""
    for baseline in {job.baseline for job, _ in missing_cells(jobs, out)}:
        cells.weights_of(config, baseline)
        if config.training.log == "tensorboard":
            summary_writer()


def _summary(out: Path, job: Job, cell: str) -> Any:
    return json.loads((out / "cells" / job.name / f"{cell}.json").read_text(encoding="utf-8"))


def _claim(out: Path, settings: dict[str, Any], resume: bool) -> None:
    """Makes the folder ours, or says why it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise MixERValueError(
            f"Cannot write results to {out}: {error.strerror or error}. Choose another --out."
        ) from error
    note, whole = out / "config.fingerprint", out / "config.json"
    own = fingerprint(settings)
    if note.exists():
        if note.read_text(encoding="utf-8").strip() != own:
            found = json.loads(whole.read_text(encoding="utf-8")) if whole.exists() else settings
            unlike = differences(found, plain(settings))
            raise MixERValueError(
                f"{out} holds results of another configuration"
                f"{' (there → here: ' if unlike else ''}{'; '.join(unlike)}{')' if unlike else ''}."
                " Choose another --out; nothing was changed."
            )
        if not resume:
            raise MixERValueError(
                f"{out} holds results of this configuration already. Pass --resume to continue "
                "them, or choose another --out."
            )
    elif (out / "cells").exists():
        raise MixERValueError(f"{out} holds cells of an unknown run. Choose another --out.")
    write_json(whole, plain(settings))
    _write(note, own + "\n")


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def missing_cells(jobs: list[Job], out: Path) -> list[tuple[Job, str]]:
    """The cells that are not finished."""
    every = [(job, cell) for job in jobs for cell in job.cells]
    return [(j, c) for j, c in every if not (out / "cells" / j.name / f"{c}.json").exists()]


def train(config: Table3Config, jobs: list[Job], out: Path) -> None:
    """Runs the jobs in processes of one thread each."""
    missing = missing_cells(jobs, out)
    if not missing:
        return
    recipes = [cells.recipe_of(config, cell) for _, cell in missing]
    # The length of a public recipe follows from the images, which may not be there yet.
    steps = sum(recipe.iterations for recipe in recipes if isinstance(recipe, Recipe))
    with _relay(printer(steps)) as events, _pool(config.workers) as pool:
        futures = {pool.submit(_work, config, job, out, events): job for job in jobs}
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        _raise_first(futures, done)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
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
        cells.run_job(config, job, out, events.put)
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


def features_of_cell(config: Table3Config, out: Path, job: Job, cell: str) -> FeatureSet:
    """Stored features; a baseline whose heads trained jointly is the erased half of theirs."""
    if cell == "baseline" and config.heads.when == "joint":
        joint = FeatureSet.load(out / "cells" / job.name / "f.features.npz")
        return dataclasses.replace(joint, related=None)
    return FeatureSet.load(out / "cells" / job.name / f"{cell}.features.npz")


def measure(config: Table3Config, jobs: list[Job], out: Path) -> dict[str, Measured]:
    """Evaluates every cell: baseline → (world, cell, seed) → results."""
    wanted = []
    for job in jobs:
        joint = config.heads.when == "joint" and "f" in job.cells
        wanted += [(job, cell) for cell in ((*(["baseline"] if joint else []), *job.cells))]
    measured: dict[str, dict[tuple[str, str, int], Results]] = {}
    with _pool(config.workers) as pool:
        found = [pool.submit(_measure_cell, config, job, cell, out) for job, cell in wanted]
        for (job, cell), future in zip(wanted, found, strict=True):
            of_baseline = measured.setdefault(job.baseline, {})
            of_baseline[job.world, cell, job.seed] = future.result()
    return dict(measured)


def _measure_cell(config: Table3Config, job: Job, cell: str, out: Path) -> Results:
    features = features_of_cell(config, out, job, cell)
    related = () if features.related is None else ("mixer", "mixer-shuffled")
    return evaluate(
        features,
        get_protocol(config.protocol, permutation=_permutation(config, job, out)),
        rules=("erased", *related),
        calibration=CALIBRATIONS,
        trials=config.trials,
    )


def _permutation(config: Table3Config, job: Job, out: Path) -> Path | None:
    path = cells.data_root(config, job, out) / "exp" / "rand_perm_cam.mat"
    return path if path.exists() else None


def draw(config: Table3Config, measured: dict[str, Measured], out: Path) -> None:
    """Writes the forest plot and the top ten of each baseline."""
    for baseline, of_baseline in measured.items():
        forest_plot(of_baseline, baseline, out / f"forest-{baseline}.png")
        seed = config.seeds[0]
        job = next(
            j for j in plan_jobs(config) if (j.baseline, j.world, j.seed) == (baseline, CUES, seed)
        )
        plain = features_of_cell(config, out, job, "baseline")
        heads = features_of_cell(config, out, job, "f")
        protocol = get_protocol(config.protocol, permutation=_permutation(config, job, out))
        gallery = np.sort(np.asarray(protocol.draws(plain)[0]))
        query = choose_query(plain, heads, gallery)
        systems = [(baseline, plain, "erased"), ("(f)+MixER", heads, "mixer")]
        top_ten(systems, query, gallery, out / f"top-ten-{baseline}.png")


def main(arguments: list[str] | None = None) -> int:
    """Command line of the benchmark; see ``mixer-plugin table3 --help``."""
    from mixer_plugin.cli import main as cli

    return cli(["table3", *(sys.argv[1:] if arguments is None else arguments)])


def run_file(config: str, out: str, *, resume: bool = False, paper: bool = False) -> str:
    """Reads a configuration file and runs it; ``paper`` adds the literal e2e setting.

    Raises:
        SystemExit: with status 143 after SIGTERM.
    """
    loaded = load_config(config)
    if paper:
        loaded = dataclasses.replace(loaded, paper=True)
    try:
        return run(loaded, Path(out), resume=resume)
    except Interrupted as stop:
        print(
            f"\nTerminated. Finished cells and checkpoints are in {out}; the same command with "
            "--resume continues with the same numbers.",
            file=sys.stderr,
        )
        raise SystemExit(stop.status) from None


if __name__ == "__main__":
    sys.exit(main())
