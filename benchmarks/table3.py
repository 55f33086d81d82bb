"""The main job: baseline, (f)+MixER and e2e+MixER, with their controls, as a Table 3.

``mixer-plugin table3 --config FILE --out DIR``.
"""

from __future__ import annotations

import dataclasses
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.experiment.cells import Job, plan_jobs
from mixer_plugin.benchmarks.experiment.comparisons import Measured
from mixer_plugin.benchmarks.experiment.config import Table3Config, load_config
from mixer_plugin.benchmarks.experiment.images import decoded_folder
from mixer_plugin.benchmarks.experiment.measure import draw, measure, protocol_of
from mixer_plugin.benchmarks.experiment.run_folder import (
    begin,
    config_of_run,
    holds,
    summaries_of,
    write_run_card,
)
from mixer_plugin.benchmarks.experiment.summary import summary
from mixer_plugin.benchmarks.experiment.tables import all_tables, differences_json, rows_csv
from mixer_plugin.benchmarks.experiment.workers import missing_cells, train
from mixer_plugin.benchmarks.run_page import run_page
from mixer_plugin.benchmarks.training.signals import Interrupted, sigterm_raises
from mixer_plugin.distributed.processes import (
    count_processes,
    lost_before,
    lost_named,
    on_main_process,
    process_group,
    rank,
    restarted,
    waited,
)
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.evaluation.report.page import Page, can_write, write_page
from mixer_plugin.io.atomic_write import write_text

FORMS = ("md", "tex", "csv", "json")
_TIMEOUT = timedelta(minutes=10)  # of a process that waits for one that neither comes nor ends


def run(config: Table3Config, out: Path, *, resume: bool = False, quiet: bool = False) -> str:
    """Runs a benchmark into a folder and returns what it shows, on one screen.

    The processes of a group call this together: all train every cell, the first one writes.

    Args:
        config: what to run.
        out: result folder; made if missing.
        resume: continue in a folder that holds results of the same configuration. Finished cells
            are kept, an interrupted one goes on from its last checkpoint, with the same numbers.
        quiet: say nothing of how far it is.

    Raises:
        MixERError: if the folder cannot be written, holds results and ``resume`` is off, or holds
            those of another configuration; or if a job fails.
        KeyboardInterrupt: on Ctrl-C, and :class:`Interrupted` on SIGTERM; running trainings save
            first, finished cells stay.
        SystemExit: in all of several processes, once one of them has said on stderr what failed.
    """

    def lost(error: BaseException) -> str:
        return f"{waited(error)} Finished cells are in {out}, and --resume goes on from there."

    with sigterm_raises(), lost_named(lost):
        jobs = plan_jobs(config)
        on_main_process("table3", lambda: begin(config, jobs, out, resume))
        train(jobs, out, config.workers, quiet=quiet)
        measured = measure(config, jobs, out)
        return on_main_process("table3", lambda: _publish(config, jobs, measured, out))


def _publish(
    config: Table3Config, jobs: list[Job], measured: dict[str, Measured], out: Path
) -> str:
    """Writes tables, pictures and the run card; returns the summary."""
    forms = _forms(config, measured, summaries_of(jobs, out))
    for form, text in forms.items():
        write_text(out / f"table3.{form}", text)
    text = summary(config, measured)
    write_text(out / "summary.txt", text + "\n")
    draw(config, jobs, measured, out)
    if can_write():
        write_page(run_page(config, jobs, measured, out), out / "report.html")
    write_run_card(config, jobs, out, protocol_of(jobs[0], out).describe())
    if config.cache is None:
        shutil.rmtree(decoded_folder(None, out), ignore_errors=True)
    return text


def report(config: Table3Config, out: Path, form: str = "md") -> str:
    """The tables of the cells that are finished so far; trains and writes nothing.

    Args:
        config: the run.
        out: its result folder.
        form: ``md``, ``tex``, ``csv`` or ``json``.

    Raises:
        MixERError: if the folder is not of this run, no cell is finished, or the form is unknown.
    """
    check_name("form", form, FORMS)
    jobs, note = _finished(config, out)
    return _forms(config, measure(config, jobs, out), summaries_of(jobs, out), note)[form]


def report_page(config: Table3Config | None, out: Path) -> Page:
    """The page of the cells that are finished so far; trains and writes nothing.

    Args:
        config: the run; None: what the folder says of itself.
        out: its result folder.

    Raises:
        MixERError: as :func:`report`.
    """
    config = config_of_run(out) if config is None else config
    jobs, note = _finished(config, out)
    return run_page(config, jobs, measure(config, jobs, out), out, note=note, plane=True)


def _finished(config: Table3Config, out: Path) -> tuple[list[Job], str]:
    """The finished cells, and a note on the others."""
    if not holds(out, dataclasses.asdict(config)):
        raise MixERValueError(f"{out} holds no run of table3. Give its --out folder.")
    every = plan_jobs(config)
    missing, count = missing_cells(every, out), sum(len(job.cells) for job in every)
    done = [job.of(*(c for c in job.cells if (job, c) not in missing)) for job in every]
    jobs = [job for job in done if job.cells]
    if not jobs:
        raise MixERValueError(f"No cell of {out} is finished yet.")
    return jobs, f"NOTE: {len(missing)} of {count} cells are not finished." if missing else ""


def _forms(
    config: Table3Config, measured: dict[str, Measured], summaries: list[Any], note: str = ""
) -> dict[str, str]:
    """The tables in every form."""
    tables = all_tables(measured, config)
    commits = sorted({summary["commit"] for summary in summaries})
    title = [f"# {config.name}: baseline, (f)+MixER, e2e+MixER", ""]
    if note:
        title += [note, ""]
    if len(commits) > 1:
        title += [f"NOTE: these cells were trained by different code: {', '.join(commits)}.", ""]
    return {
        "md": "\n".join([*title, *(t.to_markdown() for t in tables)]),
        "tex": "\n".join(t.to_latex() for t in tables),
        "csv": rows_csv(measured),
        "json": differences_json(measured, config),
    }


def configured(config: str, paper: bool = False, weights: str | None = None) -> Table3Config:
    """A configuration file with what the command line says beside it; see :func:`run_file`."""
    loaded = load_config(config)
    training = loaded.training
    if weights is not None:
        own = None if weights == "none" else weights
        training = dataclasses.replace(training, weights=own, weights_missing="error")
    return dataclasses.replace(loaded, paper=loaded.paper or paper, training=training)


def run_file(
    config: str,
    out: str,
    *,
    resume: bool = False,
    paper: bool = False,
    weights: str | None = None,
    quiet: bool = False,
) -> str:
    """Reads a configuration file and runs it, in all processes that ``torchrun`` has started.

    One that it has started anew, after another one failed, resumes.

    Args:
        config: file, or the name of a packaged one.
        out: result folder.
        resume: as in :func:`run`.
        paper: adds the literal e2e setting.
        weights: in place of the file's ``training.weights``; ``none``: random ones.
        quiet: as in :func:`run`.

    Returns:
        The summary; nothing in a process that is not the first.

    Raises:
        KeyboardInterrupt: after Ctrl-C, in a process that is alone; says how to go on.
        SystemExit: with status 143 after SIGTERM, in several processes also with 130 after Ctrl-C.
    """
    loaded = configured(config, paper, weights)
    device = loaded.training.device
    with process_group(device, option="training.device", timeout=_TIMEOUT):
        try:
            text = run(loaded, Path(out), resume=resume or restarted(), quiet=quiet)
            return text if rank() == 0 else ""
        except KeyboardInterrupt as stop:
            if lost := lost_before(stop):
                raise lost from None
            terminated = isinstance(stop, Interrupted) and stop.number == signal.SIGTERM
            advice = (
                f"Finished cells and checkpoints are in {out}; the same command with --resume "
                "continues with the same numbers."
            )
            if count_processes() == 1 and not terminated:
                raise KeyboardInterrupt(advice) from None
            if rank() == 0:
                what = "Terminated" if terminated else "Interrupted"
                print(f"\n{what}. {advice}", file=sys.stderr)
            raise SystemExit(143 if terminated else 130) from None
