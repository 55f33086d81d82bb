"""What the benchmark compares: systems, paired differences between them, and which survive.

A difference is paired: same seed, so same data, cameras, initialisation and batches. It is a gain
only where no control explains it, see :data:`TESTS`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from mixer_plugin.evaluation import Results

SETTING_ORDER = ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id", "uni")


@dataclass(frozen=True)
class View:
    """One system: a cell's features, matched in one way.

    Attributes:
        world: data with (``cues``) or without (``no-cue``) modality-only cues.
        cell: whose features.
        rule: of matching.
        calibration: of the scores, or None.
    """

    world: str
    cell: str
    rule: str
    calibration: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A paired difference, ``left - right``, with the words that name it in tables."""

    label: str
    left: View
    right: View


BASELINE = View("cues", "baseline", "erased")
BASELINE_ZNORM = View("cues", "baseline", "erased", "znorm")
BASELINE_CENTER = View("cues", "baseline", "erased", "center")
F = View("cues", "f", "mixer")
F_ZNORM = View("cues", "f", "mixer", "znorm")
F_SHUFFLED = View("cues", "f", "mixer-shuffled")
F_ENS = View("cues", "f-ens", "mixer")
E2E = View("cues", "e2e", "mixer")
E2E_ZNORM = View("cues", "e2e", "mixer", "znorm")
E2E_SHUFFLED = View("cues", "e2e", "mixer-shuffled")
E2E_ERASED = View("cues", "e2e", "erased")
E2E_ENS = View("cues", "e2e-ens", "mixer")
TRIPLET = View("cues", "erased-triplet", "erased")
PAPER = View("cues", "e2e-paper", "mixer")
NO_CUE_BASELINE = View("no-cue", "baseline", "erased")
NO_CUE_F = View("no-cue", "f", "mixer")
NO_CUE_ENS = View("no-cue", "f-ens", "mixer")

METHODS = {"{}": BASELINE, "{} (f)+MixER": F, "{}+MixER, e2e": E2E, "{}+MixER, e2e, eq. 16": PAPER}

GAINS = (
    Comparison("(f)+MixER − baseline", F, BASELINE),
    Comparison("e2e+MixER − baseline", E2E, BASELINE),
    Comparison("e2e+MixER as eq. 16 reads − baseline", PAPER, BASELINE),
)
CONTROLS = (
    Comparison("baseline, z-normed scores − baseline", BASELINE_ZNORM, BASELINE),
    Comparison("baseline, centred features − baseline", BASELINE_CENTER, BASELINE),
    Comparison("(f), related shuffled − baseline", F_SHUFFLED, BASELINE),
    Comparison("(f) ens − baseline", F_ENS, BASELINE),
    Comparison("no cues: (f) − its baseline", NO_CUE_F, NO_CUE_BASELINE),
    Comparison("no cues: (f) ens − its baseline", NO_CUE_ENS, NO_CUE_BASELINE),
    Comparison("e2e ens − baseline", E2E_ENS, BASELINE),
    Comparison("erased-triplet − baseline", TRIPLET, BASELINE),
    Comparison("e2e, its erased feature alone − baseline", E2E_ERASED, BASELINE),
)
TESTS = {
    "(f)+MixER": (
        Comparison("(f) − baseline", F, BASELINE),
        Comparison("(f) − (f) ens", F, F_ENS),
        Comparison("(f) − z-normed baseline", F, BASELINE_ZNORM),
        Comparison("(f) − centred baseline", F, BASELINE_CENTER),
        Comparison("(f) − (f) shuffled", F, F_SHUFFLED),
        Comparison("(f) z-normed − baseline z-normed", F_ZNORM, BASELINE_ZNORM),
        Comparison("no cues: (f) − (f) ens", NO_CUE_F, NO_CUE_ENS),
    ),
    "e2e+MixER": (
        Comparison("e2e − baseline", E2E, BASELINE),
        Comparison("e2e − e2e ens", E2E, E2E_ENS),
        Comparison("e2e − erased-triplet", E2E, TRIPLET),
        Comparison("e2e − z-normed baseline", E2E, BASELINE_ZNORM),
        Comparison("e2e − centred baseline", E2E, BASELINE_CENTER),
        Comparison("e2e − e2e shuffled", E2E, E2E_SHUFFLED),
        Comparison("e2e z-normed − baseline z-normed", E2E_ZNORM, BASELINE_ZNORM),
    ),
}
"""The first entry is the gain. A setting survives when every difference is positive in every seed
that ran; for the no-cue row, when the advantage over ``ens`` is larger with cues than without."""

CUE_SHARE = "(f) − (f) ens: with cues minus without"


@dataclass(frozen=True)
class Difference:
    """Paired differences over seeds, in points (percent).

    Attributes:
        label: of the comparison.
        setting: of the evaluation.
        metric: ``mAP`` or ``r1``.
        values: seed → left minus right.
    """

    label: str
    setting: str
    metric: str
    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n - 1), None for a single seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def positive(self) -> int:
        """Seeds with a positive difference."""
        return sum(value > 0 for value in self.values.values())

    def __str__(self) -> str:
        """``+2.05 ± 0.32 (3/3)``."""
        if all(value == 0 for value in self.values.values()):
            return f"0 (exactly, {len(self.values)} of {len(self.values)})"
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return f"{self.mean:+.2f}{spread} ({self.positive}/{len(self.values)})"


Measured = Mapping[tuple[str, str, int], Results]
"""(world, cell, seed) → its evaluation."""


def settings_of(measured: Measured) -> tuple[str, ...]:
    """The settings that were evaluated."""
    there = {row.setting for results in measured.values() for row in results.rows}
    return tuple(setting for setting in SETTING_ORDER if setting in there)


def contract_of(measured: Measured) -> str:
    """Protocols and query modality of an evaluation, in a few words."""
    rows = [row for results in measured.values() for row in results.rows]
    protocols = ", ".join(f"`{name}`" for name in sorted({row.protocol for row in rows}))
    return f"{protocols}, {' and '.join(sorted({row.query for row in rows}))} query"


def level(measured: Measured, view: View, setting: str, metric: str) -> dict[int, float]:
    """Seed → value in percent, for the seeds on which the view was measured."""
    found = {}
    for (world, cell, seed), results in measured.items():
        if (world, cell) == (view.world, view.cell):
            row = results.get(setting, view.rule, calibration=view.calibration)
            found[seed] = 100 * getattr(row, metric)
    return dict(sorted(found.items()))


def difference(
    measured: Measured, comparison: Comparison, setting: str, metric: str = "mAP"
) -> Difference | None:
    """The paired difference over the seeds that both sides have; None if there are none."""
    left = level(measured, comparison.left, setting, metric)
    right = level(measured, comparison.right, setting, metric)
    common = sorted(left.keys() & right.keys())
    if not common:
        return None
    return Difference(comparison.label, setting, metric, {s: left[s] - right[s] for s in common})


def cue_share(measured: Measured, setting: str) -> Difference | None:
    """What of ``(f) − ens`` needs modality-only cues: with cues minus without, paired by seed."""
    with_cues = difference(measured, Comparison("with", F, F_ENS), setting)
    without = difference(measured, Comparison("without", NO_CUE_F, NO_CUE_ENS), setting)
    if with_cues is None or without is None:
        return None
    common = sorted(with_cues.values.keys() & without.values.keys())
    if not common:
        return None
    values = {seed: with_cues.values[seed] - without.values[seed] for seed in common}
    return Difference(CUE_SHARE, setting, "mAP", values)


def verdict(measured: Measured, name: str, setting: str) -> str:
    """Whether a gain survives its controls in a setting, in a few words."""
    gain, *controls = TESTS[name]
    first = difference(measured, gain, setting)
    if first is None:
        return "not run"
    if not any(first.values.values()):
        return "equal"
    if first.positive < len(first.values):
        return "no gain" if first.mean <= 0 else "gain not in every seed"
    failed, absent = [], []
    for control in controls:
        words = control.label.split(" − ")[1]
        if control.left.world == "no-cue":
            words = "no cues"
        elif control.left.calibration is not None:
            words = "calibrating both sides"
        found = difference(measured, control, setting)
        if found is None:
            absent.append(words)
        # Exactly zero everywhere: the control cannot act there (cross has no related feature).
        elif not any(found.values.values()):
            continue
        elif control.left.world == "no-cue":
            share = cue_share(measured, setting)
            if share is not None and share.positive < len(share.values):
                failed.append(words)
        elif found.positive < len(found.values):
            failed.append(words)
    if failed:
        return f"explained by: {', '.join(failed)}"
    return f"survives; not run: {', '.join(absent)}" if absent else "survives"
