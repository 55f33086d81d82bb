"""The main job: baseline, (f)+MixER and e2e+MixER, with their controls, as a Table 3.

``mixer-plugin table3 --config FILE --out DIR`` or
``python -m mixer_plugin.benchmarks.table3 --config FILE --out DIR``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.cells import write_json
from mixer_plugin.benchmarks.config import Table3Config, load_config
from mixer_plugin.benchmarks.job_images import decoded_folder
from mixer_plugin.benchmarks.jobs import Job, plan_jobs
from mixer_plugin.benchmarks.measuring import draw, measure, protocol_of
from mixer_plugin.benchmarks.networks import weights_of
from mixer_plugin.benchmarks.recipes import plain
from mixer_plugin.benchmarks.report import all_tables, differences_json, rows_csv
from mixer_plugin.benchmarks.run_card import (
    data_fingerprint,
    differences,
    fingerprint,
    run_card,
)
from mixer_plugin.benchmarks.signals import Interrupted, sigterm_raises
from mixer_plugin.benchmarks.train_log import summary_writer
from mixer_plugin.benchmarks.workers import missing_cells, train
from mixer_plugin.errors import MixERValueError


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
    tables = all_tables(measured)
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
    roots = sorted(
        {
            root(out, job.world, job.seed)
            for job in jobs
            for root in (config.data.train_root, config.data.test_root)
        }
    )
    card = run_card(
        settings,
        data={root.name: data_fingerprint(root) for root in roots},
        protocol=protocol_of(config, jobs[0], out).describe(),
        cells=summaries,
    )
    write_json(out / "run_card.json", card)
    if config.cache is None:
        shutil.rmtree(decoded_folder(config, out), ignore_errors=True)
    return markdown


def _prepare(config: Table3Config, jobs: list[Job], out: Path) -> None:
    """Finds what is missing before the folder is claimed, and before every worker would."""
    config.data.check()
    for baseline in {job.baseline for job, _ in missing_cells(jobs, out)}:
        weights_of(config, baseline)
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


def main(arguments: list[str] | None = None) -> int:
    """Command line of the benchmark; see ``mixer-plugin table3 --help``."""
    from mixer_plugin.cli import main as cli

    return cli(["table3", *(sys.argv[1:] if arguments is None else arguments)])


def run_file(
    config: str, out: str, *, resume: bool = False, paper: bool = False, weights: str | None = None
) -> str:
    """Reads a configuration file and runs it.

    Args:
        config: file, or the name of a packaged one.
        out: result folder.
        resume: as in :func:`run`.
        paper: adds the literal e2e setting.
        weights: in place of the file's ``training.weights``; ``none``: random ones.

    Raises:
        SystemExit: with status 143 after SIGTERM.
    """
    loaded = load_config(config)
    if paper:
        loaded = dataclasses.replace(loaded, paper=True)
    if weights is not None:
        own = None if weights == "none" else weights
        training = dataclasses.replace(loaded.training, weights=own, weights_missing="error")
        loaded = dataclasses.replace(loaded, training=training)
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
