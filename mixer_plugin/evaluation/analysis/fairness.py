"""Compares the fused score with its controls in mixed galleries.

Anything that demotes the scores within a modality raises Mix-ID, even noise in place of the
related feature. So a gain of the fused score over the erased one counts only where it is also
better than the erased score with either calibration and than itself with the related features
shuffled within their modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from mixer_plugin.evaluation.analysis.comparison import Comparison, compare
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.results import ResultRow, Results
from mixer_plugin.evaluation.statistics import SEED
from mixer_plugin.evaluation.tables import markdown_table, percent, to_json
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.rules import System

# label → rule, calibration
SYSTEMS: dict[str, System] = {
    "(a) erased": ("erased", None),
    "(b) erased, centred": ("erased", "center"),
    "(b) erased, z-normed": ("erased", "znorm"),
    "(c) fused": ("mixer", None),
    "(d) fused, related shuffled": ("mixer-shuffled", None),
    "(e) fused, z-normed": ("mixer", "znorm"),
}
GAIN = "(c) − (a)"
# label → the control that the fused score is compared with, and its name in a verdict
CONTROLS: dict[str, tuple[System, str]] = {
    "(c) − (b) centred": (("erased", "center"), "centring"),
    "(c) − (b) z-normed": (("erased", "znorm"), "z-norm"),
    "(c) − (d)": (("mixer-shuffled", None), "shuffled"),
}


@dataclass(frozen=True)
class FairReport:
    """The five kinds of rows of every setting, the differences between them, and verdicts.

    Attributes:
        results: The rows of ``SYSTEMS`` in every setting.
        comparisons: By label (``GAIN`` and ``CONTROLS``); empty without related features.
        verdicts: By (setting, query): ``survives``; ``equal`` (the fused score cannot differ, as
            in ``cross``); ``no gain`` (not better than the erased one); ``gain not shown`` (better,
            but within chance); ``explained by: …``, the controls that it does not beat; or
            ``no query`` (none has a positive).
    """

    results: Results
    comparisons: dict[str, Comparison]
    verdicts: dict[tuple[str, str], str]

    def row(self, label: str, setting: str, query: str) -> ResultRow:
        """The result of a system of ``SYSTEMS``."""
        rule, calibration = SYSTEMS[label]
        return self.results.get(setting, rule, query=query, calibration=calibration)

    def to_markdown(self) -> str:
        """Two tables: levels, then differences with their intervals and verdicts, in percent."""
        places = dict.fromkeys((row.setting, row.query) for row in self.results.rows)
        labels = list(_systems(fused=bool(self.comparisons)))
        body = []
        for place in places:
            rows = [self.row(label, *place) for label in labels]
            body.append([*place, *(f"{percent(row.mAP)} / {percent(row.r1)}" for row in rows)])
        text = markdown_table(["setting (mAP / R1)", "query", *labels], body, labels=2)
        if not self.comparisons:
            return text
        body = [
            [*place, *(_difference(each, *place) for each in self.comparisons.values()), verdict]
            for place, verdict in self.verdicts.items()
        ]
        head = ["setting (mAP, points)", "query", *self.comparisons, "verdict"]
        return f"{text}\n{markdown_table(head, body, labels=2)}"

    def to_json(self) -> str:
        """JSON of all figures in full precision; NaN becomes null."""
        content = {
            "contract": self.results.contract.split("\n"),
            "rows": [asdict(row) for row in self.results.rows],
            "comparisons": {name: each.to_dict() for name, each in self.comparisons.items()},
            "verdicts": [
                {"setting": setting, "query": query, "verdict": verdict}
                for (setting, query), verdict in self.verdicts.items()
            ],
        }
        return to_json(content)


def fair_report(
    features: FeatureSet,
    protocol: str | Protocol,
    *,
    settings: Sequence[str] | None = None,
    query: str | None = None,
    trials: int | None = None,
    device: torch.device | str | None = None,
    resamples: int = 10_000,
    seed: int = SEED,
) -> FairReport:
    """Evaluates features and all controls and reports which gains survive.

    A difference counts where its paired bootstrap interval lies above zero and its p value, after
    Holm's correction over the settings (and query modalities), is at most 0.05.

    Args:
        features: Images of both modalities. Without related features only (a) and (b) are given.
        protocol: Protocol or its id.
        settings: As ``evaluate`` takes them.
        query: As ``evaluate`` takes it.
        trials: Number of gallery draws; None: what the protocol says.
        device: Where to compute; None: where the features are.
        resamples: Resamples of the paired bootstrap.
        seed: Its seed.

    Returns:
        Rows, differences and verdicts.

    Raises:
        MixERValueError: As ``evaluate``.
    """
    results = evaluate(
        features,
        protocol,
        settings=settings,
        query=query,
        systems=fair_systems(features),
        trials=trials,
        device=device,
    )
    return judge(results, features.ids, resamples=resamples, seed=seed)


def fair_systems(features: FeatureSet) -> tuple[System, ...]:
    """The pairs (rule, calibration) whose results ``judge`` needs.

    Example:
        >>> from mixer_plugin import FeatureSet
        >>> fair_systems(FeatureSet([[1.0]], None, [7], [3], [1]))
        (('erased', None), ('erased', 'center'), ('erased', 'znorm'))
    """
    return tuple(_systems(fused=features.related is not None).values())


def judge(
    results: Results, ids: Tensor, *, resamples: int = 10_000, seed: int = SEED
) -> FairReport:
    """Reports which gains survive their controls, from results of ``fair_systems``.

    Args:
        results: Of ``evaluate`` with the systems of ``fair_systems``; others are left out.
        ids: int64 [N], the identities of the feature set that was evaluated.
        resamples: Resamples of the paired bootstrap.
        seed: Its seed.

    Returns:
        Rows, differences and verdicts; of the erased feature alone, rows only.

    Raises:
        MixERValueError: A row is missing.
    """
    places = dict.fromkeys((row.setting, row.query) for row in results.rows)
    fused = any(row.rule == "mixer" for row in results.rows)
    rows = [
        results.get(setting, rule, query=query, calibration=calibration)
        for setting, query in places
        for rule, calibration in _systems(fused).values()
    ]
    results = results.of_rows(rows)
    if not fused:
        return FairReport(results, {}, {})
    against = partial(compare, results, results, ids=ids, resamples=resamples, seed=seed)
    comparisons = {GAIN: against(rule_b="erased")} | {
        label: against(rule_b=rule, calibration_b=calibration)
        for label, ((rule, calibration), _) in CONTROLS.items()
    }
    verdicts = {place: verdict(comparisons, *place) for place in places}
    return FairReport(results, comparisons, verdicts)


def verdict(comparisons: dict[str, Comparison], setting: str, query: str) -> str:
    """Whether a gain survives its controls in a setting, in a few words (see ``FairReport``)."""
    gain = comparisons[GAIN].get(setting, query)
    if not gain.difference.queries:
        return "no query"
    if gain.equal:
        return "equal"
    if not gain.gain:
        return "gain not shown" if gain.difference.mean > 0 else "no gain"
    failed = [
        name
        for label, (_, name) in CONTROLS.items()
        if not comparisons[label].get(setting, query).gain
    ]
    return f"explained by: {', '.join(failed)}" if failed else "survives"


def _systems(fused: bool) -> dict[str, System]:
    """All of ``SYSTEMS``, or those of the erased feature only."""
    return {name: system for name, system in SYSTEMS.items() if fused or system[0] == "erased"}


def _difference(comparison: Comparison, setting: str, query: str) -> str:
    row = comparison.get(setting, query)
    if row.equal:
        return "0 (exactly)"
    found = (row.difference.mean, row.difference.low, row.difference.high)
    mean, low, high = (percent(value, signed=True) for value in found)
    return f"{mean} [{low}, {high}]"
