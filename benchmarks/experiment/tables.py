"""The benchmark's tables: Markdown for people, CSV, LaTeX and JSON for programs."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from mixer_plugin.benchmarks.experiment.comparisons import (
    CALIBRATED_METHODS,
    CONTROLS,
    GAINS,
    METHODS,
    NAMED,
    TESTS,
    Comparison,
    Measured,
    System,
    asked_of,
    contract_of,
    cue_share,
    difference,
    level,
    of_variants,
    settings_of,
    titles_of,
    verdict,
)
from mixer_plugin.benchmarks.experiment.config import Table3Config, baseline_of
from mixer_plugin.benchmarks.experiment.summary import gains_of, systems_of, which_rule
from mixer_plugin.benchmarks.paper.numbers import rows_beside
from mixer_plugin.evaluation.tables import markdown_table

_LATEX = str.maketrans(
    {"%": r"\%", "_": r"\_", "±": r"$\pm$", "−": r"$-$", "→": r"$\to$", "—": "---"}
)


@dataclass(frozen=True)
class Table:
    """A table of strings with a title and a note."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """A heading, the table, and the note below."""
        table = markdown_table(self.header, self.rows, labels=len(self.header))
        return f"### {self.title}\n\n{table}\n{self.note}\n"

    def to_latex(self) -> str:
        """A ``tabular`` with a comment line for the title."""
        head, *body = (
            " & ".join(row).translate(_LATEX) + r" \\" for row in (self.header, *self.rows)
        )
        columns = "l" + "r" * (len(self.header) - 1)
        begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
        return "\n".join([f"% {self.title}", begin, head, r"\hline", *body, end, ""])


def levels_table(measured: Measured, baseline: str, config: Table3Config) -> Table:
    """R1 and mAP of every method; under the paper's own protocol, its rows below ours."""
    methods = METHODS | CALIBRATED_METHODS
    methods |= {
        f"{{}} {name}, {system.rule}": system
        for name, system in systems_of(config).items()
        if system not in methods.values()
    }
    settings, contract = titles_of(measured), contract_of(measured)
    header = ["method"] + [f"{title} {m}" for title in settings.values() for m in ("R1", "mAP")]
    found = {
        label.format(baseline): [
            level(measured, system, setting, metric)
            for setting in settings
            for metric in ("r1", "mAP")
        ]
        for label, system in methods.items()
    }
    rows = [
        (label, *(f"{statistics.fmean(v.values()):.2f}" if v else "—" for v in values))
        for label, values in found.items()
        if any(values)
    ]
    seeds = next((sorted(v) for values in found.values() for v in values if v), [])
    printed = rows_beside(baseline_of(baseline), asked_of(measured))
    for label, paper in printed:
        cells = [[f"{v:.2f}" for v in paper[s]] if s in paper else ["—", "—"] for s in settings]
        rows.append((f"paper: {label}", *itertools.chain(*cells)))
    note = f"Percent, mean over seeds {', '.join(map(str, seeds))}; {contract}."
    if printed:
        note += (
            " The paper's rows are ResNet-50 on the real data set: where yours is another network "
            "or other data, read the direction of the differences, not their level."
        )
    return Table(f"{baseline}: R1 and mAP", note, tuple(header), tuple(rows))


def difference_rows(
    measured: Measured, comparisons: Sequence[Comparison], metric: str, *, brief: bool = False
) -> list[tuple[str, ...]]:
    """A row of paired differences per setting, for the comparisons that were run."""
    shown = attrgetter("brief") if brief else str
    rows = []
    for comparison in comparisons:
        found = [difference(measured, comparison, s, metric) for s in settings_of(measured)]
        if any(found):
            rows.append((comparison.label, *("—" if d is None else shown(d) for d in found)))
    return rows


def differences_table(
    measured: Measured, baseline: str, metric: str, config: Table3Config
) -> Table:
    """Paired differences by the run's rule, then those of the methods and of the controls."""
    own = [each for each in gains_of(config).values() if each not in NAMED.values()]
    every = (*own, *GAINS, *of_variants(measured), *CONTROLS)
    rows = difference_rows(measured, every, metric)
    header = (f"{metric if metric == 'mAP' else 'R1'}, points", *titles_of(measured).values())
    note = (
        "Mean ± standard deviation over seeds of the paired difference (seeds with a positive "
        'one/seeds run). ens: one more shared head with ordinary labels, same budget. "No cues": '
        "data without modality-only cues. A control on one seed shows its direction, no spread."
        + which_rule(config)
    )
    return Table(f"{baseline}: paired differences", note, header, tuple(rows))


def verdict_table(measured: Measured, baseline: str) -> Table:
    """Each gain minus each control, and whether it survives."""
    rows: list[tuple[str, ...]] = []
    settings = settings_of(measured)
    for name, tests in TESTS.items():
        body = difference_rows(measured, tests[1:], "mAP")
        if not any(difference(measured, tests[0], s) for s in settings):
            continue
        rows += body
        shares = [cue_share(measured, name, s) for s in settings]
        if labels := {share.label for share in shares if share is not None}:
            rows.append((*labels, *("—" if d is None else str(d) for d in shares)))
        verdicts = (verdict(measured, name, s) for s in settings)
        rows.append((f"**{name}, at least**", *(f"**{v}**" for v in verdicts)))
    header = ("mAP, points", *titles_of(measured).values())
    note = (
        "At least: the gain over the control that comes closest. "
        "Calibrated rows compare calibrated with calibrated. Mix-ID can be raised by score "
        "calibration alone: never read it without these rows."
    )
    return Table(f"{baseline}: against the controls", note, header, tuple(rows))


def overview_table(measured: Mapping[str, Measured]) -> Table:
    """Every baseline and method's mAP, one below the other, as in the paper's Table 3."""
    first = next(iter(measured.values()))
    settings = titles_of(first)
    systems = [(b, of_b, *method) for b, of_b in measured.items() for method in METHODS.items()]
    rows = [levels_row(of_b, system, label.format(b)) for b, of_b, label, system in systems]
    seeds = {
        seed
        for _, of_baseline, _, system in systems
        for setting in settings
        for seed in level(of_baseline, system, setting, "mAP")
    }
    note = (
        f"Percent, mean ± standard deviation over seeds {', '.join(map(str, sorted(seeds)))}; "
        f"{contract_of(first)}. Seeds are paired: do not compare rows by their spreads. "
        "Whether a difference is one, and whether its controls explain it, is in each baseline's "
        "own tables below."
    )
    shown = tuple(row for row in rows if any(cell != "—" for cell in row[1:]))
    return Table("All baselines: mAP", note, ("method", *settings.values()), shown)


def levels_row(measured: Measured, system: System, label: str) -> tuple[str, ...]:
    """A system's mAP per setting, mean ± standard deviation over seeds."""
    found = [list(level(measured, system, s, "mAP").values()) for s in settings_of(measured)]
    return (label, *map(_mean_and_spread, found))


def _mean_and_spread(values: Sequence[float]) -> str:
    if not values:
        return "—"
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def all_tables(measured: Mapping[str, Measured], config: Table3Config) -> list[Table]:
    """Every table of a run: all baselines in one where there are several, then each one's own."""
    tables = [overview_table(measured)] if len(measured) > 1 else []
    for baseline, of_baseline in measured.items():
        tables += [
            levels_table(of_baseline, baseline, config),
            differences_table(of_baseline, baseline, "mAP", config),
            differences_table(of_baseline, baseline, "r1", config),
            verdict_table(of_baseline, baseline),
        ]
    return tables


def rows_csv(measured: Mapping[str, Measured]) -> str:
    """Every evaluated row of every cell, full precision, as CSV."""
    lines: list[str] = []
    for baseline, of_baseline in measured.items():
        for (world, cell, seed), results in of_baseline.items():
            first, *rest = results.to_csv().splitlines()
            if not lines:
                lines.append(f"baseline,world,cell,seed,{first}")
            lines += [f"{baseline},{world},{cell},{seed},{line}" for line in rest]
    return "\n".join(lines) + "\n"


def differences_json(measured: Mapping[str, Measured], config: Table3Config) -> str:
    """Every paired difference with its seeds, and the verdicts, as JSON."""
    out: dict[str, object] = {}
    for baseline, of_baseline in measured.items():
        everything = {
            c.label: c
            for c in (
                *(*gains_of(config).values(), *GAINS, *of_variants(of_baseline), *CONTROLS),
                *(test for tests in TESTS.values() for test in tests),
            )
        }
        found = [
            {"label": d.label, "setting": d.setting, "metric": d.metric, "mean": d.mean,
             "std": d.spread, "interval": d.interval(), "seeds": dict(d.values)}
            for c in everything.values()
            for s in settings_of(of_baseline)
            for m in ("mAP", "r1")
            if (d := difference(of_baseline, c, s, m)) is not None
        ]  # fmt: skip
        verdicts = {
            n: {s: verdict(of_baseline, n, s) for s in settings_of(of_baseline)} for n in TESTS
        }
        out[baseline] = {"differences": found, "verdicts": verdicts}
    return json.dumps(out, indent=1) + "\n"
