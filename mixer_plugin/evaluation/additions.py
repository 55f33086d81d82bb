"""What ``mixer-plugin evaluate`` adds to a table: fairness, diagnostics, a comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.comparison import compare
from mixer_plugin.evaluation.diagnostics import MIXED, camera_pairs, modality_bias, modality_pairs
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.fairness import fair_report
from mixer_plugin.evaluation.output import Addition
from mixer_plugin.evaluation.protocols import Protocol
from mixer_plugin.evaluation.report import Results
from mixer_plugin.evaluation.tables import to_json
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import check_related
from mixer_plugin.rules import check_rules


def fairness(features: FeatureSet, protocol: Protocol, arguments: dict[str, Any]) -> Addition:
    """The fused score beside its controls, with verdicts.

    Args:
        features: What was evaluated.
        protocol: How.
        arguments: Further arguments of ``evaluate``.
    """
    kept = {name: arguments[name] for name in ("settings", "query", "trials", "device")}
    report = fair_report(features, protocol, **kept)
    return Addition("fairness", report.to_markdown(), report.to_json())


def mixed_settings(settings: Sequence[str]) -> tuple[str, ...]:
    """The mixed settings among these; ``MixERValueError`` if there is none."""
    chosen = tuple(name for name in settings if name in MIXED)
    if not chosen:
        raise MixERValueError(
            f"--diagnostics looks at mixed galleries; have one of {', '.join(MIXED)} among "
            "--settings, or leave --diagnostics out."
        )
    return chosen


def diagnostics(features: FeatureSet, protocol: Protocol, arguments: dict[str, Any]) -> Addition:
    """Modality bias, and results by modality and by camera of query and gallery.

    Of the fused score where there are related features, else of the erased one.

    Args:
        features: What was evaluated.
        protocol: How.
        arguments: Further arguments of ``evaluate``.

    Raises:
        MixERValueError: No mixed setting was evaluated.
    """
    settings, query = mixed_settings(arguments["settings"]), arguments["query"]
    if arguments["device"] is not None:
        features = features.to(arguments["device"])
    rule = "erased" if features.related is None else "mixer"
    given: dict[str, Any] = {"rule": rule, "trials": arguments["trials"]}
    biases = [
        modality_bias(features, protocol, settings=settings, query=side, **given)
        for side in (("infrared", "visible") if query == "both" else (query,))
    ]
    bias = replace(biases[0], rows=tuple(row for each in biases for row in each.rows))
    pairs = [
        table(features, protocol, setting=settings[0], **given)
        for table in (modality_pairs, camera_pairs)
    ]
    texts = [f"Rule: {rule}\n", bias.to_markdown(), *(each.to_markdown() for each in pairs)]
    modalities, cameras = (json.loads(each.to_json()) for each in pairs)
    content = {"rule": rule, "bias": json.loads(bias.to_json())}
    content |= {"modalities": modalities, "cameras": cameras}
    return Addition("diagnostics", "\n".join(texts), to_json(content))


def compared_rules(features: FeatureSet, other: FeatureSet, names: str | None) -> tuple[str, str]:
    """The rules under which two systems are compared.

    Args:
        features: Of this system.
        other: Of the other.
        names: One rule for both, or one for each with a comma between; None: ``mixer``, or
            ``erased`` where one of them has no related features.

    Raises:
        MixERValueError: An unknown rule, or one that needs features that are not there.
    """
    if names is None:
        both = features.related is not None and other.related is not None
        names = "mixer" if both else "erased"
    mine, theirs, *more = names.split(",") if "," in names else (names, names)
    if more:
        raise MixERValueError(
            f"--compare-rule takes one rule for both systems, or one for each, got {names!r}."
        )
    for system, rule in ((features, mine), (other, theirs)):
        check_related(system, check_rules([rule]))
    return mine, theirs


def check_same_images(features: FeatureSet, other: FeatureSet, name: str) -> None:
    """Raises ``MixERValueError`` unless row i of both is, by all that is known, one image."""
    if len(features) != len(other):
        raise MixERValueError(
            f"--against {name} has {len(other)} images and the features {len(features)}; extract "
            "features of the same images, in the same order, with both systems."
        )
    labels = {what: [getattr(each, what).tolist() for each in (features, other)]
              for what in ("ids", "cams", "modality")}  # fmt: skip
    if features.paths is not None and other.paths is not None:
        # Folders may lie elsewhere.
        labels["file name"] = [
            list(map(_file_name, each.paths or ())) for each in (features, other)
        ]
    for what, (left, right) in labels.items():
        row = next(
            (i for i, pair in enumerate(zip(left, right, strict=True)) if len(set(pair)) > 1), None
        )
        if row is not None:
            raise MixERValueError(
                f"--against {name}: row {row} differs in {what} ({right[row]!r}, here "
                f"{left[row]!r}); extract features of the same images, in the same order, with "
                "both systems."
            )


def comparison(
    systems: Sequence[tuple[str, FeatureSet, str]],
    protocol: Protocol,
    arguments: dict[str, Any],
    results: Results,
) -> Addition:
    """Paired differences between two systems, without calibration.

    Args:
        systems: Name, features and rule of this system and of the other.
        protocol: How both are evaluated.
        arguments: Further arguments of ``evaluate``.
        results: Of this system; its rows are used if it has those of the rule.
    """
    (name, features, rule), (other_name, other, other_rule) = systems
    if not any((row.rule, row.calibration) == (rule, None) for row in results.rows):
        results = evaluate(features, protocol, **arguments | _only(rule))
    theirs = evaluate(other, protocol, **arguments | _only(other_rule))
    found = compare(results, theirs, ids=features.ids, rule_a=rule, rule_b=other_rule)
    found = replace(found, a=f"{found.a} of {name}", b=f"{found.b} of {other_name}")
    return Addition("comparison", found.to_markdown(), found.to_json())


def _only(rule: str) -> dict[str, Any]:
    return {"rules": (rule,), "calibration": None}


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
