"""A run as one page: what its seeds show, how they trained, and the lists of its first seed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mixer_plugin.benchmarks.experiment.cells import Job
from mixer_plugin.benchmarks.experiment.comparisons import (
    CONTROLS,
    GAINS,
    TESTS,
    Comparison,
    Difference,
    Measured,
    System,
    asked_of,
    contract_of,
    difference,
    level,
    of_variants,
    settings_of,
)
from mixer_plugin.benchmarks.experiment.config import Table3Config, baseline_of
from mixer_plugin.benchmarks.experiment.measure import features_of_row, protocol_of, rows_of
from mixer_plugin.benchmarks.experiment.sources import CUES
from mixer_plugin.benchmarks.experiment.summary import (
    gains_in_words,
    gains_of,
    systems_of,
    which_rule,
)
from mixer_plugin.benchmarks.paper.numbers import rows_beside
from mixer_plugin.evaluation.report.browser import ReportSystem
from mixer_plugin.evaluation.report.charts import SERIES, Line, interval, line_chart
from mixer_plugin.evaluation.report.content import number_cell, page_of
from mixer_plugin.evaluation.report.page import Cell, Figure, Page, Row, Section, Table
from mixer_plugin.evaluation.report.words import explained
from mixer_plugin.matching.rules import system_name

_CONTROL_WORDS = (
    ("a shared head, ens", "control: one more head that both modalities share, same budget"),
    ("erased-triplet", "control: the base with one more triplet loss in place of heads"),
    ("no cues", "control: data without what only one modality shows"),
    ("trained-longer", "control: the base trained on for as much computing as the heads take"),
)


def run_page(
    config: Table3Config,
    jobs: list[Job],
    measured: Mapping[str, Measured],
    out: Path,
    *,
    note: str = "",
    plane: bool = False,
) -> Page:
    """The page of a run, finished or not.

    Args:
        config: the run.
        jobs: its finished cells.
        measured: their evaluation, by baseline.
        out: the result folder.
        note: what is said first, such as which cells are missing.
        plane: whether features are laid out in a plane, which takes a while.
    """
    baseline, found = next(iter(measured.items()))
    seed = config.seeds[0]
    systems = _systems(config, [j for j in jobs if j.network.name == baseline], found, out)
    words = [note] * bool(note)
    for name, of_baseline in measured.items():
        seeds = sorted({s for _, _, s in of_baseline})
        contract = contract_of(of_baseline).replace("`", "")
        words.append(f"{name}, seeds {', '.join(map(str, seeds))}: {contract}, rule {config.rule}.")
        words += gains_in_words(config, of_baseline)
    words.append(
        "Differences are paired: same seed, same data, same start, same batches. A gain counts "
        "where it is larger than what the controls gain. "
        f"Curves, scores and lists below are of {baseline}, seed {seed}."
    )
    rules = [(row.rule, row.calibration) for r in found.values() for row in r.rows]
    terms = [*explained(list(dict.fromkeys(rules))), *_CONTROL_WORDS]
    head = [
        Section(name="summary", title="Summary", words=words, terms=terms),
        Section(
            name="results",
            title="Results",
            tables=[_levels(config, name, each) for name, each in measured.items()],
        ),
        Section(
            name="differences",
            title="Differences",
            words=(
                "Points of mAP, mean over seeds; line: Student's 95 % interval of the mean over "
                f"seeds, where there are several.{which_rule(config)}",
            ),
            tables=[_forest(config, name, each) for name, each in measured.items()],
        ),
        _training(config, jobs, out),
    ]
    if not systems:
        return Page(config.name, head)
    first = next(job for job in jobs if (job.world, job.seed) == (CUES, seed))
    protocol = protocol_of(first, out)
    return page_of(config.name, head, systems, protocol, trials=config.trials, plane=plane)


def _systems(
    config: Table3Config, jobs: list[Job], measured: Measured, out: Path
) -> list[ReportSystem]:
    """The rows of ``_named_rows`` on the first seed; controls have lists, and no curves."""
    seed = config.seeds[0]
    systems: list[ReportSystem] = []
    job_of = {row: job for job in jobs if (job.world, job.seed) == (CUES, seed)
              for row in rows_of(job)}  # fmt: skip
    for name, system in _named_rows(config).items():
        pair = (system.rule, system.calibration)
        measured_row = measured.get((CUES, system.cell, seed))
        results = None if measured_row is None else measured_row.select([pair])
        if results is None or not results.rows or system.cell not in job_of:
            continue
        curves = sum(bool(each.main) for each in systems)
        main = () if name.startswith("control: ") or curves == SERIES else (pair,)
        if not systems and not main:
            continue  # the first one chooses the queries
        systems.append(
            ReportSystem(
                name=name,
                features=features_of_row(job_of[system.cell], system.cell, out),
                results=results,
                main=main,
            )
        )
    return systems


def _named_rows(config: Table3Config) -> dict[str, System]:
    """The rows of the summary, and the run's own variants with heads."""
    heads = [name for name, row in config.variants.items() if row.mixer is not None]
    return systems_of(config) | {name: System(CUES, name, config.rule) for name in heads}


def _levels(config: Table3Config, baseline: str, measured: Measured) -> Table:
    """Every evaluated row, mean over seeds; the methods stand open, the paper's rows folded."""
    names = {system: name for name, system in _named_rows(config).items()}
    known = [
        System(world, cell, row.rule, row.calibration)
        for (world, cell, _), results in measured.items()
        for row in results.rows
    ]
    rows = []
    for system in dict.fromkeys([*names, *known]):
        name = names.get(system, "")
        folded = not name or name.startswith("control: ")
        for setting in settings_of(measured):
            maps, r1s = (list(level(measured, system, setting, m).values()) for m in ("mAP", "r1"))
            if not maps:
                continue
            spread = f"{statistics.stdev(maps):.2f}" if len(maps) > 1 else "–"
            cells = [
                Cell(name or _label(system)),
                Cell(setting),
                Cell(system_name((system.rule, system.calibration))),
                number_cell(statistics.fmean(maps) / 100),
                Cell(spread),
                number_cell(statistics.fmean(r1s) / 100),
                Cell(str(len(maps)), float(len(maps))),
            ]
            rows.append(Row(tuple(cells), folded))
    for label, paper in rows_beside(baseline_of(baseline), asked_of(measured)):
        for setting, (r1, ap) in paper.items():
            cells = [Cell(f"paper: {label}"), Cell(setting), Cell("ResNet-50, real data")]
            cells += [number_cell(ap / 100), Cell("–"), number_cell(r1 / 100), Cell("–")]
            rows.append(Row(tuple(cells), folded=True))
    head = ("row", "setting", "rule", "mAP, %", "± over seeds", "R1, %", "seeds")
    return Table(f"{baseline}: mAP and R1", head, tuple(rows), "controls and the paper's rows")


def _label(system: System) -> str:
    return system.cell if system.world == CUES else f"{system.cell}, {system.world}"


def _forest(config: Table3Config, baseline: str, measured: Measured) -> Table:
    gains = list(gains_of(config).values())
    tests = [test for of_method in TESTS.values() for test in of_method[1:]]
    known = (*GAINS, *of_variants(measured), *CONTROLS, *tests)
    own = list(_differences(measured, gains))
    others = _differences(measured, [each for each in known if each not in gains])
    every = [*((each, False) for each in own), *((each, True) for each in others)]
    ends = [0.0]
    for each in own:
        ends += [each.mean, *(each.interval() or ())]
    # An interval of two seeds can be a hundred times the difference: it is cut at the frame, and
    # so are the other rows, a shuffled feature among them.
    reach = 1.1 * max([3 * abs(each.mean) for each in own] or [1.0]) or 1.0
    limits = max(min(ends), -reach), min(max(ends), reach)
    limits = limits if limits[1] > limits[0] else (-1.0, 1.0)
    rows = []
    for each, folded in every:
        bounds = each.interval()
        words = f"{each.label}, {each.setting}: {each}"
        count = f"{each.positive} of {len(each.values)}"
        cells = [
            Cell(each.label),
            Cell(each.setting),
            Cell("", each.mean, interval(words, each.mean, bounds, limits)),
            Cell(f"{each.mean:+.2f}", each.mean),
            Cell("–" if bounds is None else f"{bounds[0]:+.2f} to {bounds[1]:+.2f}"),
            Cell(count, each.positive / len(each.values)),
        ]
        rows.append(Row(tuple(cells), folded))
    low, high = limits
    head = ("difference", "setting", f"{low:+.1f} to {high:+.1f} points", "mean", "95 % interval")
    return Table(f"{baseline}: paired differences of mAP", (*head, "seeds above 0"), tuple(rows))


def _differences(measured: Measured, comparisons: Sequence[Comparison]) -> Iterator[Difference]:
    for comparison in dict.fromkeys(comparisons):
        for setting in settings_of(measured):
            found = difference(measured, comparison, setting)
            if found is not None:
                yield found


def _training(config: Table3Config, jobs: list[Job], out: Path) -> Section:
    """The loss of each cell over its steps, a line for each seed; heads trained apart beside it."""
    logs: dict[tuple[str, str], dict[int, Path]] = {}
    for job in jobs:
        for cell in job.cells:
            for part in ("", ".heads"):
                path = job.folder(out) / f"{cell.name}{part}.log.jsonl"
                if path.is_file():
                    name = _label(System(job.world, f"{cell.name}{part.replace('.', ' ')}", ""))
                    logs.setdefault((job.network.name, name), {})[job.seed] = path
    style = {seed: f"line s{at % SERIES}" for at, seed in enumerate(config.seeds)}
    figures = []
    for (baseline, name), of_seed in logs.items():
        lines = []
        for seed, path in of_seed.items():
            steps, losses = _losses(path)
            if steps:
                lines.append(Line(f"seed {seed}", steps, losses, style[seed]))
        if lines:
            title = f"{baseline}, {name}"
            chart = line_chart(f"Training loss, {title}", lines, ("step", "loss"))
            figures.append(Figure(chart, f"{title}."))
    return Section(
        name="training",
        title="Training",
        words=("Training loss. Losses of different rows are sums of different terms.",)
        if figures
        else ("The result folder holds no training logs.",),
        legend=[(style[seed], f"seed {seed}") for seed in config.seeds if figures],
        figures=figures,
    )


def _losses(path: Path) -> tuple[list[float], list[float]]:
    """Steps and losses of a log; a line that a stopped run left half written is left out."""
    steps, losses = [], []
    for line in path.read_text("utf-8").splitlines():
        try:
            entry = json.loads(line)
            step, loss = float(entry["step"]), float(entry["loss"])
        except (ValueError, KeyError, TypeError):
            continue
        steps.append(step)
        losses.append(loss)
    return steps, losses
