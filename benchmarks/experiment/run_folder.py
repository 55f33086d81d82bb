"""The result folder of a run: its owner, its missing cells, its run card."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.experiment.cells import Job
from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.experiment.measure import protocol_of
from mixer_plugin.benchmarks.experiment.workers import check_cells, missing_cells
from mixer_plugin.benchmarks.training.public_recipe import PublicRecipe
from mixer_plugin.benchmarks.training.recipe import Recipe, plain
from mixer_plugin.benchmarks.training.train_log import summary_writer
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.atomic_write import write_json, write_text
from mixer_plugin.io.options import build
from mixer_plugin.run_card import data_fingerprint, differences, fingerprint, run_card


def begin(config: Table3Config, jobs: list[Job], out: Path, resume: bool) -> None:
    """Checks a run, finds its missing cells and claims the result folder; as ``table3.run``."""
    check(config, jobs, out)
    claim(out, dataclasses.asdict(config), resume)


def check(config: Table3Config, jobs: list[Job], out: Path) -> None:
    """Checks data, protocol, options and weights of the missing cells; writes nothing."""
    config.data.check()
    protocol_of(jobs[0], out).count_trials(config.trials)
    missing = missing_cells(jobs, out)
    check_cells(missing)
    for network in {job.network.name: job.network for job, _ in missing}.values():
        network.trunk_weights()
    if missing and config.training.log == "tensorboard":
        summary_writer()


def claim(out: Path, settings: dict[str, Any], resume: bool) -> None:
    """Claims the folder for this run, or raises."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise MixERValueError(
            f"Cannot write results to {out}: {error.strerror or error}. Choose another --out."
        ) from error
    if holds(out, settings) and not resume:
        raise MixERValueError(
            f"{out} holds results of this configuration already. Pass --resume to continue them, "
            "or choose another --out."
        )
    write_json(out / "config.json", plain(settings))
    write_text(out / "config.fingerprint", fingerprint(settings) + "\n")


def holds(out: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds this run.

    Raises:
        MixERValueError: if it holds another one.
    """
    note, whole = out / "config.fingerprint", out / "config.json"
    if not note.exists():
        if (out / "cells").exists():
            raise MixERValueError(f"{out} holds cells of an unknown run. Choose another --out.")
        return False
    if note.read_bytes().strip() != fingerprint(settings).encode():
        found = _read_json(whole) if whole.exists() else settings
        unlike = "; ".join(differences(found, plain(settings)))
        raise MixERValueError(
            f"{out} holds results of another configuration"
            f"{f' (there → here: {unlike})' if unlike else ''}. "
            "Choose another --out; nothing was changed."
        )
    return True


def config_of_run(out: Path) -> Table3Config:
    """The configuration that a result folder was made with.

    Raises:
        MixERValueError: if it holds none of ``table3``, or one of another version.
    """
    whole = out / "config.json"
    if not whole.is_file():
        raise MixERValueError(f"{out} holds no run of table3. Give its --out folder.")
    values = _read_json(whole)
    try:
        for owner in (values, values["heads"], *values["variants"].values()):
            if owner["recipe"] is not None:
                public = "dataset" in owner["recipe"]
                owner["recipe"] = build(PublicRecipe if public else Recipe, owner["recipe"], "")
        return build(Table3Config, values, "")
    except (KeyError, TypeError, ValueError) as error:
        raise MixERValueError(
            f"{whole} is no configuration of table3 as this version has it ({error}). Give the "
            "run's own with --config, or its features: cells/JOB/CELL.features.npz."
        ) from None


def summaries_of(jobs: list[Job], out: Path) -> list[Any]:
    """The summary of each finished cell."""
    paths = [job.folder(out) / f"{cell.name}.json" for job in jobs for cell in job.cells]
    return [_read_json(path) for path in paths]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MixERValueError(
            f"{path} is damaged ({error}). Remove it: what it tells of is made anew by --resume."
        ) from None


def write_run_card(config: Table3Config, jobs: list[Job], out: Path, protocol: str) -> None:
    """Writes the run card of finished jobs beside their results."""
    folders = (config.data.train_root, config.data.test_root)
    roots = {folder(out, job.world, job.seed) for job in jobs for folder in folders}
    card = run_card(
        dataclasses.asdict(config),
        data={root.name: data_fingerprint(root) for root in sorted(roots)},
        protocol=protocol,
        cells=summaries_of(jobs, out),
    )
    write_json(out / "run_card.json", card)
