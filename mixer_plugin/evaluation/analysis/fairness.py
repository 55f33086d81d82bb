"""Whether a gain in a mixed gallery is one: the fused score beside its controls.

Anything that demotes the scores within a modality raises Mix-ID, even noise in place of the
related feature. So a gain of the fused score over the erased one counts only where it is also
better than the erased score with both calibrations and than itself with the related features
shuffled within their modality.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from mixer_plugin.evaluation.analysis.comparison import Comparison, compare
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.results import ResultRow, Results
from mixer_plugin.evaluation.statistics import SEED
from mixer_plugin.evaluation.tables import markdown_table, percent, to_json
from mixer_plugin.features import FeatureSet

# label → rule, calibration
SYSTEMS: dict[str, tuple[str, str | None]] = {
    "(a) erased": ("erased", None),
    "(b) erased, centred": ("erased", "center"),
    "(b) erased, z-normed": ("erased", "znorm"),
    "(c) fused": ("mixer", None),
    "(d) fused, related shuffled": ("mixer-shuffled", None),
    "(e) fused, z-normed": ("mixer", "znorm"),
}
GAIN = "(c) − (a)"
# label → the control that the fused score is compared with, and its name in a verdict
CONTROLS: dict[str, tuple[tuple[str, str | None], str]] = {
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
        labels = list(_systems({row.rule for row in self.results.rows}))
        body = []
        for setting, query in places:
            rows = [self.row(label, setting, query) for label in labels]
            cells = [f"{percent(row.mAP)} / {percent(row.r1)}" for row in rows]
            body.append([setting, query, *cells])
        text = markdown_table(["setting (mAP / R1)", "query", *labels], body, labels=2)
        if not self.comparisons:
            return text
        body = []
        for place in places:
            cells = [_difference(each, *place) for each in self.comparisons.values()]
            body.append([*place, *cells, self.verdicts[place]])
        head = ["setting (mAP, points)", "query", *self.comparisons, "verdict"]
        return f"{text}\n{markdown_table(head, body, labels=2)}"

    def to_json(self) -> str:
        """JSON of all figures in full precision; NaN becomes null."""
        verdicts = [
            {"setting": setting, "query": query, "verdict": verdict}
            for (setting, query), verdict in self.verdicts.items()
        ]
        return to_json(
            {
                "contract": self.results.contract.split("\n"),
                "rows": [asdict(row) for row in self.results.rows],
                "comparisons": {name: each.to_dict() for name, each in self.comparisons.items()},
                "verdicts": verdicts,
            }
        )


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
    """Evaluates features beside all controls and says where a gain survives them.

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
    rules, calibrations = fair_rows(features)
    results = evaluate(
        features,
        protocol,
        settings=settings,
        query=query,
        rules=rules,
        calibration=calibrations,
        trials=trials,
        device=device,
    )
    return judge(results, features.ids, resamples=resamples, seed=seed)


def fair_rows(features: FeatureSet) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Rules and calibrations of ``evaluate`` that ``judge`` needs of these features."""
    known = {"erased"} if features.related is None else {rule for rule, _ in SYSTEMS.values()}
    pairs = _systems(known).values()
    rules, calibrations = (dict.fromkeys(names) for names in zip(*pairs, strict=True))
    return tuple(rules), tuple(calibrations)


def judge(
    results: Results,
    ids: Tensor,
    *,
    resamples: int = 10_000,
    seed: int = SEED,
) -> FairReport:
    """Says where a gain survives its controls, of results that hold them (see ``fair_report``).

    Args:
        results: Of ``evaluate`` with the rules and calibrations of ``fair_rows``; what else they
            hold is left out.
        ids: int64 [N], the identities of the feature set that was evaluated.
        resamples: Resamples of the paired bootstrap.
        seed: Its seed.

    Returns:
        Rows, differences and verdicts; of the erased feature alone, rows only.

    Raises:
        MixERValueError: A row is missing.
    """
    places = dict.fromkeys((row.setting, row.query) for row in results.rows)
    systems = _systems({row.rule for row in results.rows} | {"erased"})
    rows = [
        results.get(setting, rule, query=query, calibration=calibration)
        for setting, query in places
        for rule, calibration in systems.values()
    ]
    per_query = {row.key: results.per_query_ap[row.key] for row in rows}
    results = replace(results, rows=rows, per_query_ap=per_query)
    if "mixer" not in {rule for rule, _ in systems.values()}:
        return FairReport(results, {}, {})

    def against(rule: str, calibration: str | None) -> Comparison:
        return compare(
            results,
            results,
            ids=ids,
            rule_a="mixer",
            rule_b=rule,
            calibration_b=calibration,
            resamples=resamples,
            seed=seed,
        )

    comparisons = {GAIN: against("erased", None)}
    comparisons |= {label: against(*control) for label, (control, _) in CONTROLS.items()}
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


def _systems(rules: Collection[str]) -> dict[str, tuple[str, str | None]]:
    """All of ``SYSTEMS`` if there is a fused rule among these, else those of the erased feature."""
    fused = "mixer" in rules
    return {name: system for name, system in SYSTEMS.items() if fused or system[0] == "erased"}


def _difference(comparison: Comparison, setting: str, query: str) -> str:
    row = comparison.get(setting, query)
    if row.equal:
        return "0 (exactly)"
    mean, low, high = (
        percent(value, signed=True)
        for value in (row.difference.mean, row.difference.low, row.difference.high)
    )
    return f"{mean} [{low}, {high}]"
