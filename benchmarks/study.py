"""Studies of MixER's options: many paired trainings, compared seed by seed.

``python -m mixer_plugin.benchmarks.study --config FILE --out DIR`` trains every
variant of a file on every seed and compares them on the validation identities. ``--test NAME`` then
reads the test identities, once, for the variant that was chosen; asking for another one afterwards
is refused.

A file is one of ``table3`` with ``data.split: val``, and besides::

    variants:                # an option with a list of values becomes a variant for each of them
      fusion: {mode: e2e, mixer: {lambda_fusion: [0.4, 1.0]}}
      longer: {mode: baseline, recipe: {iterations: [1400, 2700]}}
      deep: {mode: f, base: longer, mixer: {related_stages: 3}}   # heads on that finished network
    twins:                   # for these variants (or all), the same with a second shared head;
      ens: all               # with eq. 15 on the erased feature alone
      triplet: [fusion]
    worlds: [cues, cue=0.5, no-cue]   # data with all, a share of, no modality-only cues
    differences:             # the rows of the tables, in place of every one that could be made:
      deep heads − baseline: [deep@fused-calibrated, baseline@erased]   # cell@rule, world/cell@rule

With ``data.split: test`` a study is a proof: it has to say its differences, which are all it shows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.experiment.comparisons import (
    Comparison,
    Measured,
    System,
    difference,
    settings_of,
    titles_of,
)
from mixer_plugin.benchmarks.experiment.images import decoded_batches, features_of, test_set
from mixer_plugin.benchmarks.experiment.measure import measure
from mixer_plugin.benchmarks.experiment.run_folder import begin, write_run_card
from mixer_plugin.benchmarks.experiment.sources import CUES
from mixer_plugin.benchmarks.experiment.study_config import Study, load_study
from mixer_plugin.benchmarks.experiment.tables import Table, difference_rows, levels_row
from mixer_plugin.benchmarks.experiment.trained_network import load_trained
from mixer_plugin.benchmarks.experiment.workers import missing_cells, train
from mixer_plugin.benchmarks.training.signals import sigterm_raises
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.io.atomic_write import write_json, write_text
from mixer_plugin.io.console import run_command

_CHOICE = ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id")


def run_study(study: Study, out: Path, *, resume: bool = False) -> str:
    """Trains what is missing and writes ``recipe.md``, ``recipe.json`` and the run card.

    Args:
        study: what to compare.
        out: result folder; made if missing.
        resume: continue in a folder that holds this study.

    Returns:
        The tables as Markdown.

    Raises:
        MixERError: as ``table3.run``.
        KeyboardInterrupt: running trainings save first; finished cells stay.
    """
    jobs = study.jobs()
    with sigterm_raises():
        begin(study.run, jobs, out, resume)
        train(jobs, out, study.run.workers)
    measured = measure(study.run, jobs, out)
    text = _write(study, measured, out, "recipe", _identities(study))
    write_run_card(study.run, jobs, out, f"full, {_identities(study)}")
    return text


def _identities(study: Study) -> str:
    return {"val": "validation", "test": "test"}[study.run.data.split] + " identities"


def read_test(study: Study, out: Path, chosen: str) -> str:
    """Evaluates the chosen variant, its twins and the baseline on the test identities.

    Args:
        study: the study.
        out: its result folder, all cells finished.
        chosen: a variant.

    Returns:
        The tables as Markdown, which are also written to ``test.md`` and ``test.json``.

    Raises:
        MixERError: for an unknown variant, unfinished cells, or if the test identities were read
            for another variant before.
    """
    check_name("variant", chosen, study.variants)
    note = out / "test" / "chosen.json"
    if note.exists():
        before = json.loads(note.read_text(encoding="utf-8"))["chosen"]
        if before != chosen:
            raise MixERValueError(
                f"The test identities of {out} were read for {before!r}. Reading them for "
                f"{chosen!r} would choose on them: run the study anew with seeds that it has not "
                "seen."
            )
    wanted = {"baseline", chosen, *study.twins(chosen)}
    run = dataclasses.replace(study.run, data=dataclasses.replace(study.run.data, split="test"))
    jobs = [
        job.of(*cells)
        for job in dataclasses.replace(study, run=run).jobs()
        if (cells := [cell for cell in job.cells if cell.name in wanted])
    ]
    for job, cell in missing_cells(jobs, out):
        raise MixERValueError(
            f"{job.name}/{cell.name} is not trained yet. Finish the study with --resume."
        )
    (out / "test").mkdir(exist_ok=True)
    write_json(note, {"chosen": chosen})
    for job in jobs:
        images, pixels = test_set(job, out)
        folder = job.folder(out / "test")
        folder.mkdir(parents=True, exist_ok=True)
        for cell in job.cells:
            model, built = load_trained(job.folder(out) / f"{cell.name}.pt")
            features = features_of(model, decoded_batches(images, pixels, built))
            features.save(folder / f"{cell.name}.features.npz")
    measured = measure(run, jobs, out / "test")
    one = dataclasses.replace(study, variants=(chosen,))
    return _write(one, measured, out, "test", "test identities, read once")


def _write(
    study: Study, measured: Mapping[str, Measured], out: Path, name: str, identities: str
) -> str:
    """Writes the tables and the numbers of a study; returns the tables as Markdown."""
    text = _tables(study, measured, identities)
    write_text(out / f"{name}.md", text)
    write_json(out / f"{name}.json", _numbers(study, measured))
    return text


def _tables(study: Study, measured: Mapping[str, Measured], identities: str) -> str:
    """All tables of a study as Markdown."""
    parts = [f"# {study.run.name}: {identities}", ""]
    if len(study.variants) > 1 and not study.differences:
        parts.append(_choice(study, measured).to_markdown())
    note = (
        "First row: level, mean ± standard deviation over seeds. Then paired differences: "
        "mean ± standard deviation [95 % interval, from 4 seeds] (positive/seeds). "
        "Calibrated: rule mixer-calibrated against the baseline's erased-calibrated."
    )
    if study.differences:
        note = (
            f"{len(study.run.seeds)} seeds. First row: level, mean ± standard deviation. Then "
            "paired differences in points: mean [95 % interval, from 4 seeds], and how many seeds "
            "are above zero where not all are."
        )
    for baseline, of_baseline in measured.items():
        header = ("mAP, points", *titles_of(of_baseline).values())
        for world, comparisons in _compared(study).items():
            rows = [
                levels_row(of_baseline, System(world, "baseline", "erased"), baseline),
                *difference_rows(of_baseline, comparisons, "mAP", brief=bool(study.differences)),
            ]
            parts.append(Table(f"{baseline}, {world}", note, header, tuple(rows)).to_markdown())
    return "\n".join(parts)


def _compared(study: Study) -> dict[str, list[Comparison]]:
    """World → the differences of its table, by the world of their left side."""
    return {
        world: [c for c in study.differences if c.left.world == world]
        if study.differences
        else [*_gains(study, world), *_controls(study, world)]
        for world in study.worlds
    }


def _gains(study: Study, world: str) -> list[Comparison]:
    plain = System(world, "baseline", "erased")
    standard = System(world, "baseline", "erased-calibrated")
    found = [Comparison("baseline, calibrated − baseline", standard, plain)]
    for name in study.variants:
        for cell in (name, *study.twins(name)):
            own, calibrated = (_system(study, world, cell, kind) for kind in ("", "-calibrated"))
            found += [
                Comparison(f"{cell} − baseline", own, plain),
                Comparison(f"{cell}, calibrated", calibrated, standard),
            ]
            if own.rule == "mixer":
                found += [
                    Comparison(f"{cell}, {rule} − baseline", System(world, cell, rule), plain)
                    for rule in ("mixer-calibrated", "fused", "fused-calibrated")
                ]
    return found


def _controls(study: Study, world: str) -> list[Comparison]:
    modes = {name: study.run.variants[name].mode for name in study.variants}
    mode_f, bare = ([n for n, mode in modes.items() if mode == m] for m in ("f", "baseline"))
    found = []
    for name in study.variants:
        own, calibrated = System(world, name, "mixer"), System(world, name, "mixer-calibrated")
        others = list(study.twins(name))
        others += mode_f[:1] if modes[name] == "e2e" else []
        others += bare if modes[name] != "baseline" else []
        for other in others:
            there, standard = (_system(study, world, other, kind) for kind in ("", "-calibrated"))
            found.append(Comparison(f"{name} − {other}", own, there))
            found.append(Comparison(f"{name} − {other}, calibrated", calibrated, standard))
        znorm = System(world, "baseline", "erased", "znorm")
        found += [
            Comparison(f"{name} − z-normed baseline", own, znorm),
            Comparison(f"{name} − shuffled", own, System(world, name, "mixer-shuffled")),
            Comparison(f"{name} − its erased alone", own, System(world, name, "erased")),
            Comparison(f"{name}: calibrated rule − paper's rule", calibrated, own),
        ]
    return found


def _system(study: Study, world: str, cell: str, kind: str = "") -> System:
    """A cell's features under the paper's rule or, with ``-calibrated``, the calibrated one."""
    mixer = study.run.variants[cell].mixer
    heads = mixer is not None and mixer.head_names
    return System(world, cell, ("mixer" if heads else "erased") + kind)


def _choice(study: Study, measured: Mapping[str, Measured]) -> Table:
    """Variants by their mean gain over the settings and baselines, the best first."""
    rows = []
    for name in study.variants:
        gain = Comparison(name, _system(study, CUES, name), System(CUES, "baseline", "erased"))
        found = ([difference(own, gain, s) for own in measured.values()] for s in _CHOICE)
        gains = [[each.mean for each in of_setting if each] for of_setting in found]
        means = [sum(values) / len(values) for values in gains if values]
        rows.append((sum(means) / len(means), min(means), name))
    rows.sort(reverse=True)
    return Table(
        "Choice",
        f"Difference to the baseline in mAP points under the paper's rule, mean over the baselines "
        f"and {', '.join(_CHOICE)}; and the smallest of these settings' means.",
        ("variant", "mean", "smallest"),
        tuple((name, f"{mean:+.2f}", f"{least:+.2f}") for mean, least, name in rows),
    )


def _numbers(study: Study, measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Every difference with its seeds."""
    return [
        {
            "baseline": baseline,
            "world": world,
            "difference": comparison.label,
            "setting": setting,
            "mean": found.mean,
            "std": found.spread,
            "interval": found.interval(),
            "seeds": dict(found.values),
        }
        for baseline, of_baseline in measured.items()
        for world, comparisons in _compared(study).items()
        for comparison in comparisons
        for setting in settings_of(of_baseline)
        if (found := difference(of_baseline, comparison, setting)) is not None
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a study from the command line."""
    parser = argparse.ArgumentParser(prog="study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, help="file, or a packaged one's name")
    parser.add_argument("--out", required=True, type=Path, help="result folder")
    parser.add_argument("--resume", action="store_true", help="train only what is missing")
    parser.add_argument("--test", metavar="NAME", help="read the test identities for a variant")
    options = parser.parse_args(arguments)

    def work() -> None:
        study = load_study(options.config)
        try:
            if options.test is not None:
                print(read_test(study, options.out, options.test))
            else:
                print(run_study(study, options.out, resume=options.resume))
        except KeyboardInterrupt:
            raise KeyboardInterrupt("--resume continues.") from None

    return run_command("study", work)


if __name__ == "__main__":
    sys.exit(main())
