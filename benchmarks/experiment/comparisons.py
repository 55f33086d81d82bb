"""Comparisons of the benchmark: systems, paired differences, verdicts.

A difference is paired: same seed, so same data, cameras, initialisation and batches. It is a gain
only where no control explains it, see :data:`TESTS`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from mixer_plugin.evaluation import SETTINGS, Results

_SEEDS_OF_INTERVAL = 4
TITLES = {
    "cross": "Cross", "mix": "Mix", "mix-cam": "Mix-Cam", "mix-cam-id": "Mix-Cam-ID",
    "mix-id": "Mix-ID",
}  # fmt: skip


@dataclass(frozen=True)
class System:
    """One system: a cell's features, matched in one way.

    Attributes:
        world: data with (``cues``), without (``no-cue``) or with a share of (``cue=SHARE``)
            modality-only cues.
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
    left: System
    right: System


BASELINE = System("cues", "baseline", "erased")
BASELINE_ZNORM = System("cues", "baseline", "erased", "znorm")
BASELINE_CENTER = System("cues", "baseline", "erased", "center")
F = System("cues", "f", "mixer")
F_ZNORM = System("cues", "f", "mixer", "znorm")
F_SHUFFLED = System("cues", "f", "mixer-shuffled")
F_ENS = System("cues", "f-ens", "mixer")
E2E = System("cues", "e2e", "mixer")
E2E_ZNORM = System("cues", "e2e", "mixer", "znorm")
E2E_SHUFFLED = System("cues", "e2e", "mixer-shuffled")
E2E_ERASED = System("cues", "e2e", "erased")
E2E_ERASED_ZNORM = System("cues", "e2e", "erased", "znorm")
E2E_ENS = System("cues", "e2e-ens", "mixer")
TRIPLET = System("cues", "erased-triplet", "erased")
PAPER = System("cues", "e2e-paper", "mixer")
NO_CUE_BASELINE = System("no-cue", "baseline", "erased")
NO_CUE_F = System("no-cue", "f", "mixer")
NO_CUE_ENS = System("no-cue", "f-ens", "mixer")
NO_CUE_E2E = System("no-cue", "e2e", "mixer")
NO_CUE_E2E_ENS = System("no-cue", "e2e-ens", "mixer")
BASELINE_CALIBRATED = System("cues", "baseline", "erased-calibrated")
F_CALIBRATED = System("cues", "f", "mixer-calibrated")
F_ENS_CALIBRATED = System("cues", "f-ens", "mixer-calibrated")
E2E_CALIBRATED = System("cues", "e2e", "mixer-calibrated")
E2E_ENS_CALIBRATED = System("cues", "e2e-ens", "mixer-calibrated")
TRIPLET_CALIBRATED = System("cues", "erased-triplet", "erased-calibrated")

METHODS = {"{}": BASELINE, "{} (f)+MixER": F, "{}+MixER, e2e": E2E, "{}+MixER, e2e, eq. 16": PAPER}
CALIBRATED_METHODS = {
    "{}, calibrated rule": BASELINE_CALIBRATED,
    "{} (f)+MixER, calibrated rule": F_CALIBRATED,
    "{}+MixER, e2e, calibrated rule": E2E_CALIBRATED,
}

GAINS = (
    Comparison("(f)+MixER − baseline", F, BASELINE),
    Comparison("e2e+MixER − baseline", E2E, BASELINE),
    Comparison("e2e+MixER as eq. 16 reads − baseline", PAPER, BASELINE),
    Comparison("(f) − baseline, both calibrated", F_CALIBRATED, BASELINE_CALIBRATED),
    Comparison("e2e − baseline, both calibrated", E2E_CALIBRATED, BASELINE_CALIBRATED),
)
CONTROLS = (
    Comparison("baseline, z-normed scores − baseline", BASELINE_ZNORM, BASELINE),
    Comparison("baseline, centred features − baseline", BASELINE_CENTER, BASELINE),
    Comparison("baseline, calibrated rule − baseline", BASELINE_CALIBRATED, BASELINE),
    Comparison("(f), calibrated rule − paper's rule", F_CALIBRATED, F),
    Comparison("(f), calibrated rule − z-normed baseline", F_CALIBRATED, BASELINE_ZNORM),
    Comparison("e2e, calibrated rule − paper's rule", E2E_CALIBRATED, E2E),
    Comparison("e2e, calibrated rule − its erased z-normed", E2E_CALIBRATED, E2E_ERASED_ZNORM),
    Comparison("(f), related shuffled − baseline", F_SHUFFLED, BASELINE),
    Comparison("(f) ens − baseline", F_ENS, BASELINE),
    Comparison("no cues: (f) − its baseline", NO_CUE_F, NO_CUE_BASELINE),
    Comparison("no cues: (f) ens − its baseline", NO_CUE_ENS, NO_CUE_BASELINE),
    Comparison("no cues: e2e − its baseline", NO_CUE_E2E, NO_CUE_BASELINE),
    Comparison("no cues: e2e ens − its baseline", NO_CUE_E2E_ENS, NO_CUE_BASELINE),
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
        Comparison("(f) calibrated − baseline calibrated", F_CALIBRATED, BASELINE_CALIBRATED),
        Comparison("(f) calibrated − (f) ens calibrated", F_CALIBRATED, F_ENS_CALIBRATED),
        Comparison("no cues: (f) − (f) ens", NO_CUE_F, NO_CUE_ENS),
    ),
    "e2e+MixER": (
        Comparison("e2e − baseline", E2E, BASELINE),
        Comparison("e2e − e2e ens", E2E, E2E_ENS),
        Comparison("e2e − erased-triplet", E2E, TRIPLET),
        Comparison("e2e − z-normed baseline", E2E, BASELINE_ZNORM),
        Comparison("e2e − centred baseline", E2E, BASELINE_CENTER),
        Comparison("e2e − e2e shuffled", E2E, E2E_SHUFFLED),
        Comparison("e2e − (f)", E2E, F),
        Comparison("e2e z-normed − baseline z-normed", E2E_ZNORM, BASELINE_ZNORM),
        Comparison("e2e calibrated − baseline calibrated", E2E_CALIBRATED, BASELINE_CALIBRATED),
        Comparison("e2e calibrated − e2e ens calibrated", E2E_CALIBRATED, E2E_ENS_CALIBRATED),
        Comparison(
            "e2e calibrated − erased-triplet calibrated", E2E_CALIBRATED, TRIPLET_CALIBRATED
        ),
        Comparison("no cues: e2e − e2e ens", NO_CUE_E2E, NO_CUE_E2E_ENS),
    ),
}
"""The first entry is the gain, the others are what it is worth over each control."""

NAMED = {
    (each.left, each.right): each
    for each in reversed(
        (*GAINS, *CONTROLS, *(test for of_one in TESTS.values() for test in of_one))
    )
}
"""Two systems → the difference of this table, by its first name."""

CUE_SHARES = {
    "(f)+MixER": ("(f) − (f) ens: with cues minus without", (F, F_ENS), (NO_CUE_F, NO_CUE_ENS)),
    "e2e+MixER": (
        "e2e − e2e ens: with cues minus without",
        (E2E, E2E_ENS),
        (NO_CUE_E2E, NO_CUE_E2E_ENS),
    ),
}


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

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Student's interval of the mean over seeds, None for a single seed."""
        if self.spread is None:
            return None
        from scipy.special import stdtrit  # scipy.stats takes seconds to import

        count = len(self.values)
        half = float(stdtrit(count - 1, 0.5 + level / 2)) * self.spread / count**0.5
        return self.mean - half, self.mean + half

    @property
    def shown(self) -> bool:
        """Whether it is above zero: its 95 % interval, or with fewer than 4 seeds every seed."""
        found = self._interval_shown
        return self.positive == len(self.values) if found is None else found[0] > 0

    @property
    def _interval_shown(self) -> tuple[float, float] | None:
        return self.interval() if len(self.values) >= _SEEDS_OF_INTERVAL else None

    def __str__(self) -> str:
        """``+2.05 ± 0.32 (3/3)``; from 4 seeds on with the 95 % interval of the mean."""
        if all(value == 0 for value in self.values.values()):
            return f"0 (exactly, {len(self.values)} of {len(self.values)})"
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        found = self._interval_shown
        interval = "" if found is None else f" [{found[0]:+.2f}, {found[1]:+.2f}]"
        return f"{self.mean:+.2f}{spread}{interval} ({self.positive}/{len(self.values)})"

    @property
    def brief(self) -> str:
        """``+2.1 [+1.7, +2.4]``; the seeds above zero follow where not all are: ``(5/8)``."""
        count = len(self.values)
        if not any(self.values.values()):
            return "0 exactly"
        found = self._interval_shown
        interval = "" if found is None else f" [{found[0]:+.1f}, {found[1]:+.1f}]"
        fewer = "" if self.positive == count else f" ({self.positive}/{count})"
        return f"{self.mean:+.1f}{interval}{fewer}"


Measured = Mapping[tuple[str, str, int], Results]
"""(world, cell, seed) → its evaluation."""


def settings_of(measured: Measured) -> tuple[str, ...]:
    """The settings that were evaluated."""
    there = {row.setting for results in measured.values() for row in results.rows}
    return tuple(setting for setting in SETTINGS if setting in there)


def titles_of(measured: Measured) -> dict[str, str]:
    """Setting → heading of its columns."""
    rows = [row for results in measured.values() for row in results.rows]
    queries = {row.query for row in rows}
    uni = {"visible": "V→V", "infrared": "I→I"}[queries.pop()] if len(queries) == 1 else "within"
    return {setting: TITLES.get(setting, uni) for setting in settings_of(measured)}


def asked_of(measured: Measured) -> set[tuple[str, str]]:
    """Protocol and query of each result."""
    return {(row.protocol, row.query) for results in measured.values() for row in results.rows}


def contract_of(measured: Measured) -> str:
    """Protocols and query modality of an evaluation, in a few words."""
    asked = asked_of(measured)
    protocols = ", ".join(f"`{name}`" for name in sorted({protocol for protocol, _ in asked}))
    queries = sorted({query for _, query in asked})
    return f"{protocols}, " + (
        "mean of both queries" if len(queries) > 1 else f"{queries[0]} query"
    )


def level(measured: Measured, system: System, setting: str, metric: str) -> dict[int, float]:
    """Seed → value in percent, for the seeds on which the system was measured.

    Of infrared and visible queries, where both were asked, it is the mean.
    """
    wanted = (setting, system.rule, system.calibration)
    found = {
        seed: [
            getattr(row, metric)
            for row in results.rows
            if (row.setting, row.rule, row.calibration) == wanted
        ]
        for (world, cell, seed), results in measured.items()
        if (world, cell) == (system.world, system.cell)
    }
    return {seed: 100 * statistics.fmean(found[seed]) for seed in sorted(found) if found[seed]}


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


def cue_share(measured: Measured, name: str, setting: str) -> Difference | None:
    """The part of the advantage over ``ens`` that needs modality-only cues, paired by seed."""
    label, with_cues, without_cues = CUE_SHARES[name]
    there = difference(measured, Comparison("with", *with_cues), setting)
    without = difference(measured, Comparison("without", *without_cues), setting)
    if there is None or without is None:
        return None
    common = sorted(there.values.keys() & without.values.keys())
    if not common:
        return None
    values = {seed: there.values[seed] - without.values[seed] for seed in common}
    return Difference(label, setting, "mAP", values)


def of_variants(measured: Measured) -> tuple[Comparison, ...]:
    """The difference between each of a run's own variants and the baseline."""
    known = {system.cell for system in METHODS.values()} | {c.left.cell for c in CONTROLS}
    found = {}
    for (world, cell, _), results in measured.items():
        if world == "cues" and cell not in known:
            fused = any(row.rule == "mixer" for row in results.rows)
            system = System(world, cell, "mixer" if fused else "erased")
            found[cell] = Comparison(f"{cell} − baseline", system, BASELINE)
    return tuple(found.values())


def verdict(measured: Measured, name: str, setting: str) -> str:
    """The gain over the control that comes closest, ``+0.6 over (f) ens, in 3 of 3 seeds``.

    Controls that are not beaten beyond chance (:attr:`Difference.shown`) come closest. Behind it
    stand what weakens it: chance; a gain over ``ens`` that is no larger with modality-only cues
    than without (:func:`cue_share`); the controls that were not run. ``equal`` where the method
    cannot act, as (f) in cross; ``no gain`` over the baseline; ``not run``.
    """
    gain, *controls = TESTS[name]
    first = difference(measured, gain, setting)
    if first is None:
        return "not run"
    if not any(first.values.values()):
        return "equal"
    if first.mean <= 0:
        return "no gain"
    found = {one: difference(measured, one, setting) for one in (gain, *controls)}
    # Exactly zero everywhere: the control cannot act there (cross has no related feature).
    acting = [
        it
        for one, it in found.items()
        if it is not None and any(it.values.values()) and one.left.world != "no-cue"
    ]
    closest = min(acting, key=lambda it: (it.shown, it.mean))
    words = [
        f"{closest.mean:+.1f} over {_control_of(closest.label)}, in {closest.positive} of "
        f"{len(closest.values)} seeds"
    ]
    if not closest.shown:
        words.append("within chance" if closest.mean > 0 else "not beaten")
    share = cue_share(measured, name, setting)
    if share is not None and not share.shown:
        words.append("no more than without cues")
    absent = [
        "no cues" if c.left.world == "no-cue" else _control_of(c.label)
        for c, it in found.items()
        if it is None
    ]
    return "; ".join([", ".join(words), *([f"not run: {', '.join(absent)}"] if absent else [])])


def _control_of(label: str) -> str:
    return label.split(" − ")[1]
