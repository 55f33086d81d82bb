"""Rules, calibrations, settings and results in words."""

from __future__ import annotations

from collections.abc import Sequence

from mixer_plugin.evaluation.analysis.fairness import CONTROLS
from mixer_plugin.evaluation.results import ResultRow, Results
from mixer_plugin.evaluation.terminal import counts
from mixer_plugin.matching.rules import System, system_name

RULES = {
    "erased": "the base model's feature alone",
    "mixer": "MixER: two images of one modality are also compared by their related features",
    "mixer-calibrated": "MixER with all scores on one scale",
    "fused": "base and related feature for every pair",
    "fused-calibrated": "base and related feature for every pair, all scores on one scale",
    "erased-calibrated": "control: the base model's feature alone, all scores on one scale",
    "related": "the related feature alone",
    "dev-sum": "the sum of the authors' development code",
    "routed": "the related feature within a modality, the erased one across",
    "dev-switch": "the switch of the authors' development code",
    "mixer-shuffled": "control: MixER with the related features of other images, which say "
    "nothing about a person",
}
CALIBRATIONS = {
    "znorm": "each query's scores are standardised within each modality",
    "center": "each modality's mean feature is subtracted",
}
_CONTROLS = [*(system for system, _ in CONTROLS.values()), ("erased-calibrated", None)]
SETTINGS = {
    "cross": "gallery of the other modality",
    "mix": "gallery of both modalities",
    "mix-cam": "both modalities, without the query's camera",
    "mix-cam-id": "both modalities, without the person's images from the query's camera",
    "mix-id": "both modalities, without the person's images in the query's modality",
    "uni": "gallery of the query's modality",
}


def is_control(system: System) -> bool:
    """Whether a row is there to be compared with: it can gain without knowing any person."""
    rule, calibration = system
    return calibration is not None or rule in ("mixer-shuffled", "erased-calibrated")


def explained(systems: Sequence[System]) -> list[tuple[str, str]]:
    """Name and meaning of each rule and each calibration among some systems."""
    rules = dict.fromkeys(rule for rule, _ in systems)
    calibrations = dict.fromkeys(name for _, name in systems if name)
    return [(rule, RULES.get(rule, "")) for rule in rules] + [
        (name, f"control: {CALIBRATIONS.get(name, '')}") for name in calibrations
    ]


def sentences(results: Results, name: str = "") -> list[str]:
    """What an evaluation shows: its size, and in each setting the gain beside its best control."""
    if not results.rows:
        return []
    size = f"{name}: " * bool(name) + results.rows[0].protocol
    gains: list[str] = []
    queries = list(dict.fromkeys(row.query for row in results.rows))
    for query in queries:
        rows = [row for row in results.rows if row.query == query]
        size += f", {counts(rows)}"
        for setting in dict.fromkeys(row.setting for row in rows):
            of = {(r.rule, r.calibration): r for r in rows if r.setting == setting}
            gains += _gains(of, f"{setting}, {query} query" if len(queries) > 1 else setting)
    found = [f"{size}.", *gains]
    missing = results.missing_controls()
    if missing:
        found.append(f"Not evaluated, though a gain needs them: {', '.join(missing)}.")
    return found


def _gains(rows: dict[System, ResultRow], place: str) -> list[str]:
    """Sentences on a setting, one for each rule that fuses features."""
    base = rows.get(("erased", None))
    fused = [s for s in rows if not is_control(s) and s[0] not in ("erased", "related")]
    found: list[str] = []
    for system in fused if base is not None else ():
        assert base is not None
        mine, plain = 100 * rows[system].mAP, 100 * base.mAP
        text = f"{place}: mAP {plain:.1f} % with erased, {mine:.1f} % with {system_name(system)}"
        if rows[system].mAP == base.mAP:
            found.append(f"{text}: the same.")
            continue
        text += f" ({mine - plain:+.1f})."
        controls = {s: 100 * rows[s].mAP for s in _CONTROLS if s in rows}
        if controls:
            best = max(controls, key=lambda s: controls[s])
            text += f" The best control, {system_name(best)}, has {controls[best]:.1f} %"
            text += ", as much or more." if controls[best] >= mine else "."
        found.append(text)
    return found
