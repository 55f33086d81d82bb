"""Report sections of ``mixer-plugin evaluate``: fairness, diagnostics, comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from mixer_plugin.commands.evaluate.output import Section
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import per_query
from mixer_plugin.evaluation.analysis.comparison import compare
from mixer_plugin.evaluation.analysis.curves import Curve, gallery_curve
from mixer_plugin.evaluation.analysis.fairness import judge
from mixer_plugin.evaluation.analysis.label_noise import WrongLabelReport, wrong_labels
from mixer_plugin.evaluation.analysis.modality_bias import (
    MIXED,
    BiasReport,
    camera_pairs,
    modality_bias,
    modality_pairs,
)
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.protocols import Protocol
from mixer_plugin.evaluation.protocols.fixed_gallery import FixedGallery, fixed_gallery
from mixer_plugin.evaluation.results import Results
from mixer_plugin.evaluation.settings import query_sides
from mixer_plugin.evaluation.statistics import SEED
from mixer_plugin.evaluation.tables import markdown_table, to_json
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.rules import check_rules, system_name
from mixer_plugin.matching.scores import check_related

# Queries times images, at most, of each ranking of those diagnostics that rank again and again: for
# five sizes of the gallery and five sets of labels.
_PAIRS = 2**23
_GALLERIES = 3


def fairness(features: FeatureSet, results: Results) -> Section:
    """The fused score beside its controls, with verdicts; results hold ``fair_systems``."""
    report = judge(results, features.ids)
    return Section("fairness", report.to_markdown(), report.to_json())


def worst_queries(results: Results, count: int) -> Section:
    """The queries of lowest AP in ``mix`` under ``mixer``, or in the first row's place of each."""
    first = next((row for row in results.rows if row.rule == "mixer"), results.rows[0])
    settings = [row.setting for row in results.rows]
    setting = "mix" if "mix" in settings else settings[0]
    system = (first.rule, first.calibration)
    found = [row for row in results.select([system]).rows if row.setting == setting]
    rows = per_query.worst(results.of_rows(found).per_query, count)
    title = f"Lowest AP in {setting}, {system_name(system)}. Others: --settings, --rules."
    head, body = per_query.cells(rows)
    return Section(
        "worst",
        f"{title}\n\n{markdown_table(head, body)}",
        per_query.to_json(rows),
    )


def mixed_settings(settings: Sequence[str]) -> tuple[str, ...]:
    """The mixed settings among these; ``MixERValueError`` if there is none."""
    chosen = tuple(name for name in settings if name in MIXED)
    if not chosen:
        raise MixERValueError(
            f"--diagnostics looks at mixed galleries; have one of {', '.join(MIXED)} among "
            "--settings, or leave --diagnostics out."
        )
    return chosen


class Growth(NamedTuple):
    """Results in growing galleries: query modality, queries used and available, and the curve."""

    query: str
    asked: int
    of: int
    curve: Curve


def growth(
    features: FeatureSet, protocol: Protocol, arguments: dict[str, Any]
) -> tuple[Growth, ...]:
    """The first mixed setting as the gallery grows, by query modality; every process calls this."""
    setting = mixed_settings(arguments["settings"])[0]
    found = []
    for side in query_sides(arguments["query"]):
        few = _few_queries(features, protocol, side, arguments["trials"])
        curve = gallery_curve(
            features,
            few,
            draws=_GALLERIES,
            setting=setting,
            query=side.name.lower(),
            rule=_diagnosed(features),
            device=arguments["device"],
        )
        asked, of = (len(each.queries(features, side)) for each in (few, protocol))
        found.append(Growth(side.name.lower(), asked, of, curve))
    return tuple(found)


def diagnostics(
    features: FeatureSet, protocol: Protocol, arguments: dict[str, Any], grown: Sequence[Growth]
) -> Section:
    """Modality bias, results by modality and by camera, in growing galleries, under wrong labels.

    Of the fused score where there are related features, else of the erased one, which no modality
    label changes. Wrong labels are tried on as many queries as ``growth`` asks, in one gallery.
    """
    settings, trials = mixed_settings(arguments["settings"]), arguments["trials"]
    if arguments["device"] is not None:
        features = features.to(arguments["device"])
    sides = query_sides(arguments["query"])
    rule = _diagnosed(features)
    given: dict[str, Any] = {"rule": rule, "trials": trials}
    biases = [
        modality_bias(features, protocol, settings=settings, query=side.name.lower(), **given)
        for side in sides
    ]
    parts: dict[str, Any] = {
        "bias": BiasReport(tuple(row for each in biases for row in each.rows)),
        "modalities": modality_pairs(features, protocol, setting=settings[0], **given),
        "cameras": camera_pairs(features, protocol, setting=settings[0], **given),
    }
    texts = [f"Rule: {rule}\n", *(part.to_markdown() for part in parts.values())]
    content = {"rule": rule, **{name: json.loads(part.to_json()) for name, part in parts.items()}}
    content["growth"] = []
    for query, asked, of, curve in grown:
        head = f"As the gallery grows: {settings[0]}, {asked} of {of} {query} queries"
        texts.append(f"{head}\n\n{curve.to_markdown()}")
        content["growth"].append(
            {"query": query, "asked": asked, "of": of, **json.loads(curve.to_json())}
        )
    if rule != "erased":
        reports = [
            wrong_labels(
                features,
                _few_queries(features, protocol, side, trials),
                settings=settings,
                query=side.name.lower(),
                draws=1,
                trials=1,
                rule=rule,
            )
            for side in sides
        ]
        wrong = WrongLabelReport(tuple(row for each in reports for row in each.rows))
        texts.append(f"mAP when modality labels are wrong, same queries\n\n{wrong.to_markdown()}")
        content["wrong_labels"] = json.loads(wrong.to_json())
    return Section("diagnostics", "\n".join(texts), to_json(content))


def _diagnosed(features: FeatureSet) -> str:
    return "erased" if features.related is None else "mixer"


def _few_queries(
    features: FeatureSet, protocol: Protocol, side: Modality, trials: int | None
) -> FixedGallery:
    """The protocol with its first galleries and few queries, which bounds the ranking time."""
    galleries = protocol.draws(features, trials)[:_GALLERIES]
    images = len(np.unique(np.concatenate(galleries)))
    rows = protocol.queries(features, side)
    count = min(max(_PAIRS // images, 1), len(rows))
    few = np.random.default_rng(SEED).choice(rows, count, replace=False)
    return fixed_gallery(protocol, galleries, f"of {protocol.id}", query_rows=few)


def compared_rules(features: FeatureSet, other: FeatureSet, names: str | None) -> tuple[str, str]:
    """The rules under which two systems are compared.

    ``names`` is one rule for both, or one for each with a comma between; None: ``mixer``, or
    ``erased`` where one of them has no related features. Raises ``MixERValueError`` for an unknown
    rule, or one that needs features that are not there.
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
    """Raises ``MixERValueError`` unless row i of both sets has the same labels and path.

    ``name`` is what the message calls the other.
    """
    if len(features) != len(other):
        raise MixERValueError(
            f"{name} has {len(other)} images and the features {len(features)}; extract "
            "features of the same images, in the same order, with both systems."
        )
    labels = {
        what: (getattr(features, what).tolist(), getattr(other, what).tolist())
        for what in ("ids", "cams", "modality")
    }
    if features.paths is not None and other.paths is not None:
        # Folders may lie elsewhere.
        mine, theirs = (
            [path.replace("\\", "/").rpartition("/")[2] for path in each]
            for each in (features.paths, other.paths)
        )
        labels["file name"] = (mine, theirs)
    for what, pairs in labels.items():
        for row, (here, there) in enumerate(zip(*pairs, strict=True)):
            if here != there:
                raise MixERValueError(
                    f"{name}: row {row} differs in {what} ({there!r}, here {here!r}); "
                    "extract features of the same images, in the same order, with both systems."
                )


def comparison(
    systems: Sequence[tuple[str, FeatureSet, str]],
    protocol: Protocol,
    arguments: dict[str, Any],
    results: Results,
) -> Section:
    """Paired differences between two systems, without calibration.

    A system is a name, features and a rule; ``results`` hold the rows of the first one's rule.
    """
    (name, features, rule), (other_name, other, other_rule) = systems
    alone = {"systems": [(other_rule, None)]}
    theirs = evaluate(other, protocol, **arguments | alone)
    found = compare(results, theirs, ids=features.ids, rule_a=rule, rule_b=other_rule)
    found = replace(found, a=f"{found.a} of {name}", b=f"{found.b} of {other_name}")
    text, content = found.to_markdown(), found.to_dict()
    for which, each, beside in ((name, features, other), (other_name, other, features)):
        if each.related is None and beside.related is not None and rule == other_rule:
            note = (
                f"{which} has no related features: both are compared under rule {rule}. "
                "--compare-rule takes another rule for each."
            )
            text, content = f"{note}\n\n{text}", {"note": note, **content}
    return Section("comparison", text, to_json(content))
