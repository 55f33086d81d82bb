"""Studies of MixER's options: many paired trainings, compared seed by seed.

``python -m mixer_plugin.benchmarks.experiment.study --config FILE --out DIR`` trains every
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
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.experiment.cells import Job, plan_variants
from mixer_plugin.benchmarks.experiment.comparisons import (
    Comparison,
    Measured,
    System,
    difference,
    settings_of,
    titles_of,
)
from mixer_plugin.benchmarks.experiment.config import (
    Table3Config,
    config_from_dict,
    read_yaml,
    section,
)
from mixer_plugin.benchmarks.experiment.extract import decoded_batches, features_of
from mixer_plugin.benchmarks.experiment.images import test_set
from mixer_plugin.benchmarks.experiment.measure import measure
from mixer_plugin.benchmarks.experiment.run_folder import begin, write_run_card
from mixer_plugin.benchmarks.experiment.sources import CUES, share_of
from mixer_plugin.benchmarks.experiment.tables import Table, difference_rows, levels_row
from mixer_plugin.benchmarks.experiment.trained_network import load_trained
from mixer_plugin.benchmarks.experiment.workers import missing_cells, train
from mixer_plugin.benchmarks.training.signals import sigterm_raises
from mixer_plugin.errors import MixERValueError, check_name, closest
from mixer_plugin.io.atomic_write import write_json, write_text
from mixer_plugin.io.console import run_command
from mixer_plugin.io.options import fit
from mixer_plugin.io.yaml_file import naming
from mixer_plugin.matching.rules import RULES

_TWINS = {"ens": "shared-head", "triplet": "erased-triplet"}
# Eq. 15 on the erased feature trains the base, which (f) never does.
_WITHOUT = {"ens": ("baseline",), "triplet": ("baseline", "f")}
_CHOICE = ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id")


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study.

    Attributes:
        run: baselines, seeds, recipes of training, and all variants with their twins.
        variants: names of the variants that are compared.
        worlds: ``cues``, ``no-cue``, ``cue=SHARE``; several.
        differences: the rows of its tables; none: every one that could be made.
    """

    run: Table3Config
    variants: tuple[str, ...]
    worlds: tuple[str, ...] = (CUES,)
    differences: tuple[Comparison, ...] = ()

    def jobs(self) -> list[Job]:
        """Its trainings."""
        return plan_variants(self.run, self.worlds)

    def twins(self, variant: str) -> tuple[str, ...]:
        """The cells of a variant's twins."""
        names = (f"{variant}-{kind}" for kind in _TWINS)
        return tuple(name for name in names if name in self.run.variants)


def load_study(path: str) -> Study:
    """Reads a study's file, or the packaged one of that name.

    Raises:
        MixERValueError: for a key or value that does not fit.
        OSError: if the file cannot be read.
    """
    with naming(path):
        return study_from_dict(read_yaml(path))


def study_from_dict(values: Mapping[str, Any]) -> Study:
    """Builds a study from a file's contents; see :func:`load_study`."""
    values = dict(values)
    twins = section("twins", values.pop("twins", None))
    _names("twins", tuple(twins), tuple(_TWINS))
    given = values.pop("worlds", (CUES,))
    worlds = (given,) if isinstance(given, str) else fit(given, tuple[str, ...], "worlds")
    shares = [share_of(world) for world in worlds]
    differences = section("differences", values.pop("differences", None))
    own = {
        name: options
        for given, value in section("variants", values.get("variants")).items()
        for name, options in _expanded(given, section(f"variants.{given}", value))
    }
    if not own:
        raise MixERValueError("The study has no variants to compare.")
    every = dict(own)
    for kind, chosen in twins.items():
        names = own if chosen == "all" else _names(f"twins.{kind}", chosen, tuple(own))
        for name in names:
            options = own[name]
            if options.get("mode", "e2e") in _WITHOUT[kind]:
                continue
            mixer = section(f"variants.{name}.mixer", options.get("mixer"))
            mixer["control"] = _TWINS[kind]
            every[f"{name}-{kind}"] = {**options, "mixer": mixer}
    if "controls" in values:
        raise MixERValueError("A study has no controls but its twins and worlds: remove controls.")
    run = config_from_dict({**values, "variants": every})
    if run.data.split != "val" and not differences:
        raise MixERValueError(
            "A study chooses, and so must not see the test identities. Set data.split: val; or, to "
            "prove what was chosen before, list under differences all that is to be shown."
        )
    if any(share is not None for share in shares) and run.data.train.synthetic is None:
        raise MixERValueError(f"worlds is {list(worlds)}, which needs a generator: data.synthetic.")
    cells = ("baseline", *run.variants)
    compared = tuple(
        _comparison(label, sides, worlds, cells) for label, sides in differences.items()
    )
    return Study(run=run, variants=tuple(own), worlds=worlds, differences=compared)


def _comparison(label: str, sides: Any, worlds: Sequence[str], cells: Sequence[str]) -> Comparison:
    """Two systems, each ``cell@rule`` or, of another world than the first, ``world/cell@rule``."""
    found = []
    for text in fit(sides, tuple[str, ...], f"differences.{label}"):
        *world_of, rest = text.split("/")
        cell, _, rule = rest.partition("@")
        world = "/".join(world_of) or worlds[0]
        check_name(f"world of differences.{label}", world, worlds)
        check_name(f"cell of differences.{label}", cell, cells)
        check_name(f"rule of differences.{label}", rule, RULES)
        found.append(System(world, cell, rule))
    if len(found) != 2:
        raise MixERValueError(
            f"differences.{label} has {len(found)} sides; expected two, [cell@rule, cell@rule]."
        )
    return Comparison(label, *found)


def _names(what: str, given: Any, known: Sequence[str]) -> tuple[str, ...]:
    names = [given] if isinstance(given, str) else fit(given, tuple[str, ...], what)
    for name in names:
        if name not in known:
            raise MixERValueError(f"{what} has {name!r}.{closest(str(name), known)}")
    return tuple(dict.fromkeys(names))


def _expanded(name: str, options: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A variant for each combination of the values that are lists."""
    parts = {
        part: section(f"variants.{name}.{part}", options[part])
        for part in ("mixer", "recipe")
        if isinstance(options.get(part), Mapping)
    }
    lists = {
        (part, key): value
        for part, values in parts.items()
        for key, value in values.items()
        if isinstance(value, list)
    }
    found = []
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        label = "-".join([name, *(f"{key}={value}" for (_, key), value in chosen.items())])
        changed = {
            part: {**values, **{key: value for (of, key), value in chosen.items() if of == part}}
            for part, values in parts.items()
        }
        found.append((label, {**options, **changed}))
    return found


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
