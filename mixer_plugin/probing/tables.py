"""The probes' report for people, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mixer_plugin.evaluation.tables import markdown_table, percent
from mixer_plugin.probing.identity import FIGURES

_RULES = {"erased": "E", "related": "R", "mixer": "E+R"}
_COUNTED = {"all": "all images", "visible": "within visible", "infrared": "within infrared"}


def markdown(report: Mapping[str, Any]) -> str:
    """The report's tables."""
    parts = [_about(report["about"]), _constraints(report), _modality(report["modality"])]
    parts += [_identity(report["identity"]), _factors(report), _independence(report)]
    parts.append(_evaluation(report["evaluation"], report["about"]["protocol"]))
    return "\n".join(part for part in parts if part)


def _about(about: Mapping[str, Any]) -> str:
    widths = ", ".join(f"{name} ({width})" for name, width in about["widths"].items())
    return (
        f"# Probes of frozen features\n\n{about['images']} images ({about['infrared']} infrared) "
        f"of {about['identities']} identities in {about['cameras']} cameras. Features (width): "
        f"{widths}. Every figure is of identities that its probe has not seen; intervals are 95 % "
        "over identities.\n"
    )


def _constraints(report: Mapping[str, Any]) -> str:
    body = [
        [row["statement"].replace("|", "\\|"), row["estimator"], _bits(row), f"{row['most']:.2f}"]
        for row in report["constraints"]
    ]
    text = (
        "Lower bounds: above 0 the constraint does not hold; at or below 0 nothing is shown. A "
        "bound at its maximum says no more than that."
    )
    if report["identity"].get("related"):
        text += (
            " MI(Z_r; Y | M), read literally, is the identity that Z_r tells within a modality, "
            "without which it could not help there; what the constraint is for, identity that does "
            "not depend on the modality, is the last row."
        )
    head = ["constraint", "estimator", "bits, at least", "of at most"]
    return _section("The paper's constraints (eq. 3), as measured", head, body, text)


def _modality(by_feature: Mapping[str, Any]) -> str:
    body = [
        [
            name,
            row["probe"],
            percent(row["accuracy"]),
            _interval(row["accuracy_ci"], 100),
            percent(row["control"]),
            percent(row["selectivity"], signed=True),
            _number(row["bits"]),
        ]
        for name, rows in by_feature.items()
        for row in rows
    ]
    head = ["feature", "probe", "accuracy", "interval", "control", "selectivity", "bits"]
    text = "Control: the same probe for labels shuffled within each identity."
    return _section("Modality (balanced by camera and identity; chance 50)", head, body, text)


def _identity(by_feature: Mapping[str, Any]) -> str:
    body = [
        [
            *(name, row["pairs"], *(percent(row[of]) for of in FIGURES)),
            f"{_number(row['bits'])} of {row['most']:.2f}",
        ]
        for name, rows in by_feature.items()
        for row in rows
    ]
    shown = [name.replace("_", " ").replace("r1", "R1") for name in FIGURES]
    text = (
        "Retrieval by cosine in galleries of one fold; aligned: after a linear map per modality, "
        "fitted on other identities."
    )
    head = ["feature", "pairs", *shown, "bits"]
    return _section("Identity, within and across modality", head, body, text)


def _factors(report: Mapping[str, Any]) -> str:
    if not report["factors"]:
        return ""
    body = [
        [name, row["images"], row["group"], "yes" if row["shown"] else "no", _number(row["r2"])]
        for name, rows in report["factors"].items()
        for row in rows
    ]
    cues = ", ".join(f"{k} {v:g}" for k, v in report["about"]["cues"].items())
    text = "Not shown: images that do not have these factors, where 0 is expected."
    head = ["feature", "images", "factors", "shown", "R²"]
    return _section(f"Factors of the generator (ridge R²; {cues})", head, body, text, labels=4)


def _independence(report: Mapping[str, Any]) -> str:
    names = ("cosine", "chance", "cka", "related_from_erased", "erased_from_related")
    body = [
        [place, _COUNTED[row["images"]], *(_number(row[of]) for of in names), _bits(row)]
        for place, rows in report["independence"].items()
        for row in rows
    ]
    if not body:
        return ""
    head = ["features", "images", "abs. cosine", "of other images", "CKA", "R² E→R", "R² R→E"]
    head.append("bits, at least")
    text = (
        "Orthogonal is not independent: the cosine may vanish where one feature predicts the other."
    )
    return _section("Independence of erased (E) and related (R)", head, body, text)


def _evaluation(rows: list[dict[str, Any]], protocol: str) -> str:
    rules = [rule for rule in _RULES if any(row["rule"] == rule for row in rows)]
    cell = {(row["setting"], row["query"], row["rule"]): row for row in rows}
    body = []
    for setting, query in dict.fromkeys((row["setting"], row["query"]) for row in rows):
        own = [cell[setting, query, rule] for rule in rules]
        body.append([setting, query, *(percent(row[n]) for n in ("mAP", "r1") for row in own)])
    head = ["setting", "query", *(f"{n} {_RULES[rule]}" for n in ("mAP", "R1") for rule in rules)]
    return _section(f"Evaluation (protocol {protocol})", head, body)


def _section(
    title: str, head: Sequence[str], body: list[list[str]], text: str = "", labels: int = 2
) -> str:
    """A heading, a table and a note."""
    return f"## {title}\n\n{markdown_table(head, body, labels)}" + (f"\n{text}\n" if text else "")


def _number(value: float | None) -> str:
    # Rounded first, and plus zero: never "-0.000".
    return "–" if value is None or math.isnan(value) else f"{round(value, 3) + 0:.3f}"


def _bits(row: Mapping[str, Any]) -> str:
    return f"{row['bits']:.2f} {_interval(row['bits_ci'], 1)}"


def _interval(ends: Sequence[float], scale: float) -> str:
    return f"[{scale * ends[0]:.2f}, {scale * ends[1]:.2f}]"
