"""What a run shows, on one screen: four rows, and each difference in plain words."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping

from mixer_plugin.benchmarks.experiment.comparisons import (
    NAMED,
    Comparison,
    Difference,
    Measured,
    System,
    contract_of,
    difference,
    level,
    titles_of,
)
from mixer_plugin.benchmarks.experiment.config import Table3Config
from mixer_plugin.benchmarks.experiment.sources import CUES
from mixer_plugin.evaluation.tables import aligned_table

_LEFT_OUT = ("mix-cam",)  # between Mix and Mix-Cam-ID, whose columns say as much
_WIDTH = 80
_WHERE = (
    "Every control, R1 and each seed: table3.md in the result folder; pictures: *.svg. What such "
    "figures say, and what they do not: docs/evidence.md."
)


def systems_of(config: Table3Config) -> dict[str, System]:
    """The rows: baseline, (f), e2e, and each control that ran, by the run's rule.

    A control is matched by the same calibration as the heads: a shared head for every pair, a
    network without heads by its own feature.
    """
    calibrated = "-calibrated" if config.rule.endswith("-calibrated") else ""
    words = calibrated.replace("-", ", ")
    bare, shared = f"erased{calibrated}", f"fused{calibrated}"
    rows = {
        "baseline": System(CUES, "baseline", "erased"),
        "(f)+MixER": System(CUES, "f", config.rule),
        "e2e+MixER": System(CUES, "e2e", config.rule),
    }
    if config.paper:
        rows["e2e as eq. 16 reads"] = System(CUES, "e2e-paper", "mixer")
    longer = [name for name, row in config.variants.items() if row.mode == "baseline"]
    rows |= {f"control: {name}{words}": System(CUES, name, bare) for name in longer}
    if calibrated and not longer:
        rows["control: baseline, calibrated"] = System(CUES, "baseline", bare)
    if "f-ens" in config.controls:
        rows[f"control: a shared head{words}"] = System(CUES, "f-ens", shared)
    if "erased-triplet" in config.controls:
        rows[f"control: erased-triplet{words}"] = System(CUES, "erased-triplet", bare)
    return rows


def summary(config: Table3Config, measured: Mapping[str, Measured]) -> str:
    """A table of each baseline, of a single one its words too, in lines of at most 80 columns."""
    lines = []
    for baseline, found in measured.items():
        lines += [*_table(config, baseline, found), ""]
        if len(measured) == 1:  # of several, the tables alone fill the screen
            for sentence in gains_in_words(config, found):
                lines += _wrapped(sentence, indent="  ")
            lines.append("")
    return "\n".join([*lines, *_wrapped(_WHERE)])


def _table(config: Table3Config, baseline: str, measured: Measured) -> list[str]:
    titles = _titles(measured)
    body = []
    for name, system in systems_of(config).items():
        found = [list(level(measured, system, s, "mAP").values()) for s in titles]
        if any(found):
            body.append([name, *(f"{statistics.fmean(v):.1f}" if v else "—" for v in found)])
    seeds = sorted({seed for _, cell, seed in measured if cell == "baseline"})
    title = (
        f"{config.name}: {baseline}, mean of seeds {', '.join(map(str, seeds))}. "
        f"{contract_of(measured).replace('`', '')}, rule {config.rule}."
    )
    return [*_wrapped(title), "", aligned_table(["mAP, %", *titles.values()], body)]


def gains_of(config: Table3Config) -> dict[str, Comparison]:
    """Each method against the baseline and each control, by the run's rule.

    Returns:
        ``(f)+MixER over baseline`` → the comparison, by its name in the tables if it has one.
    """
    rows = systems_of(config)
    found = {}
    for method in ("(f)+MixER", "e2e+MixER"):
        for other in (n for n in rows if n == "baseline" or n.startswith("control: ")):
            words = f"{method} over {other.removeprefix('control: ')}"
            systems = rows[method], rows[other]
            found[words] = NAMED.get(systems, Comparison(words, *systems))
    return found


def which_rule(config: Table3Config) -> str:
    """A sentence on the rule of ``gains_of``, where it is not the paper's."""
    if config.rule == "mixer":
        return ""
    return (
        f' Rows with "over" match by the rule {config.rule}; the others by the paper\'s, unless '
        "they name one."
    )


def gains_in_words(config: Table3Config, measured: Measured) -> list[str]:
    """A sentence for each method and each row it is compared with: the gain in every setting."""
    found = {words: _gains(measured, each) for words, each in gains_of(config).items()}
    return [f"{words}: {gains}" for words, gains in found.items() if gains]


def _gains(measured: Measured, compared: Comparison) -> str:
    """``Cross +2.1, Mix +3.2 (1 of 2 seeds)``: points, and the seeds above zero if not all are."""
    found = {
        title: gain
        for setting, title in _titles(measured).items()
        if (gain := difference(measured, compared, setting)) is not None
    }
    if not found:
        return ""
    return ", ".join(f"{title} {_points(gain)}" for title, gain in found.items()) + "."


def _points(gain: Difference) -> str:
    seeds = len(gain.values)
    if not any(gain.values.values()):
        return "0 exactly"
    fewer = "" if gain.positive == seeds else f" ({gain.positive} of {seeds} seeds)"
    return f"{gain.mean:+.1f}{fewer}"


def _titles(measured: Measured) -> dict[str, str]:
    return {s: title for s, title in titles_of(measured).items() if s not in _LEFT_OUT}


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
