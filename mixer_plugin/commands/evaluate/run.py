"""Runs ``mixer-plugin evaluate``."""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mixer_plugin.commands.evaluate.output import OutputTarget
from mixer_plugin.commands.evaluate.sections import (
    check_same_images,
    compared_rules,
    comparison,
    diagnostics,
    fairness,
    growth,
    mixed_settings,
    worst_queries,
)
from mixer_plugin.commands.shared.telling import show
from mixer_plugin.distributed.device import device_trouble
from mixer_plugin.distributed.processes import on_all_ranks, on_main_process, process_group
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.analysis.fairness import fair_systems
from mixer_plugin.evaluation.analysis.split_means import mean_over_splits
from mixer_plugin.evaluation.audit.audit import audit
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.protocols import Protocol, get_protocol
from mixer_plugin.evaluation.results import Results
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.files import file_kind
from mixer_plugin.io.folder import make_folder
from mixer_plugin.matching.rules import System
from mixer_plugin.releases import REGDB_SPLITS

AUDIT_FAILED = 4
_EACH_SPLIT, _MEAN = "regdb", "mean"


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluates each input; processes of ``torchrun`` share the work and the first one prints.

    Returns the exit status, ``AUDIT_FAILED`` if an audit fails. Where there are several processes,
    what is wrong with the input raises ``SystemExit`` in place of ``MixERError``.
    """
    trouble = device_trouble(options.device)
    with process_group(None if trouble else options.device) as share:
        protocols = on_all_ranks("evaluate", partial(_prepare, options, trouble))
        targets = on_all_ranks("evaluate", partial(_targets, options, make=share.index == 0))
        other = on_all_ranks("evaluate", partial(_load_other, options))
        made = [
            _evaluate(options, target, protocol, other)
            for target, protocol in zip(targets, protocols, strict=False)  # a mean has no protocol
        ]
        if options.protocol == _EACH_SPLIT:
            mean = on_all_ranks(
                "evaluate", partial(mean_over_splits, [results for results, _ in made])
            )
            on_main_process("evaluate", partial(targets[-1].put, mean))
        if share.index == 0:
            show(options, "", {"results": [target.document for target in targets]})
        return AUDIT_FAILED if share.any(not all(ok for _, ok in made)) else 0


def _evaluate(
    options: argparse.Namespace, target: OutputTarget, protocol: Protocol, other: FeatureSet | None
) -> tuple[Results, bool]:
    """Evaluates and prints one input; returns in the first process whether its audit passed.

    Every process takes every step that evaluates; what is told is left to the first.
    """
    features = on_all_ranks("evaluate", partial(_load, options, target.name, other))
    arguments = _arguments(options, features, protocol)
    rules = None if other is None else compared_rules(features, other, options.compare_rule)
    # What is added to the table is evaluated with it, in one pass; the table does not show it.
    systems = [*arguments["systems"], *(fair_systems(features) if options.fair else ())]
    systems += [] if rules is None else [(rules[0], None)]
    every = arguments | {"systems": systems}
    known = on_all_ranks("evaluate", partial(evaluate, features, protocol, **every))
    results = known.select(arguments["systems"])
    on_main_process("evaluate", partial(target.put, results))
    if options.worst is not None:
        on_main_process("evaluate", lambda: target.add(worst_queries(results, options.worst)))
    what = features, protocol, arguments

    def check() -> bool:
        found = audit(features, protocol, results, queries=options.audit)
        target.add_audit(found)
        return found.ok

    ok = options.audit is None or on_main_process("evaluate", check) is not False
    if options.fair:
        on_main_process("evaluate", lambda: target.add(fairness(features, known)))
    if options.diagnostics:
        grown = on_all_ranks("evaluate", partial(growth, *what))
        on_main_process("evaluate", lambda: target.add(diagnostics(*what, grown)))
    if other is not None and rules is not None:
        both = [(target.name, features, rules[0]), (options.against, other, rules[1])]
        found = on_all_ranks("evaluate", partial(comparison, both, protocol, arguments, known))
        on_main_process("evaluate", partial(target.add, found))
    page = partial(target.put_page, features, protocol, results, options.trials)
    on_main_process("evaluate", page)
    return results, ok


def _prepare(options: argparse.Namespace, trouble: str | None) -> list[Protocol]:
    """Returns the protocol of each input; refuses options that fail late or have no effect."""
    inputs = [Path(given) for given in options.features]
    kinds = [file_kind(source) for source in [*inputs, *map(Path, filter(None, [options.against]))]]
    if options.labels and len(inputs) > 1 and "npy" not in kinds:
        raise MixERValueError(
            f"--labels {options.labels} is for .npy features, and none is given; leave it out."
        )
    related = [given for given in (options.related, options.related_mat) if given]
    if len(related) > 1:
        raise MixERValueError(
            "--related is for an .npy and --related-mat for .mat features; give one of them."
        )
    if related and len(inputs) > 1:
        raise MixERValueError(
            f"{related[0]} holds the related features of one input, but {len(inputs)} are given; "
            "evaluate them one by one, or save each as an .npz."
        )
    for name in ("audit", "worst"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise MixERValueError(
                f"--{name} needs at least one query, got {getattr(options, name)}."
            )
    for name in ("audit", "fair", "diagnostics"):
        if options.rerank is not None and getattr(options, name):
            raise MixERValueError(
                f"--{name} ranks by the scores themselves and knows nothing of re-ranking; leave "
                f"one of --{name} and --rerank out."
            )
    if options.compare_rule and not options.against:
        raise MixERValueError(
            "--compare-rule says what --against compares; give --against OTHER, or leave it out."
        )
    if options.json and options.format not in (None, "json"):
        raise MixERValueError(
            f"--json and --format {options.format} both say what is printed; give one of them."
        )
    if trouble:
        raise MixERValueError(trouble)
    names = ("permutation", "cmc", "same_camera", "no_positive", "colocated_mixed")
    given = {name: getattr(options, name) for name in names}
    protocols = [get_protocol(id, **given) for id in _protocol_names(options)]
    if options.diagnostics:
        for protocol in protocols:
            mixed_settings(_settings(options, protocol))
    return protocols


def _protocol_names(options: argparse.Namespace) -> list[str]:
    inputs = len(options.features)
    if options.protocol != _EACH_SPLIT:
        return [options.protocol] * inputs
    if not 2 <= inputs <= len(REGDB_SPLITS):
        raise MixERValueError(
            f"--protocol regdb takes the features of 2 to {len(REGDB_SPLITS)} splits, in their "
            f"order, got {inputs}; a single one takes --protocol regdb/N, the split of its model."
        )
    if options.against:
        raise MixERValueError(
            "--against compares two systems on the same images, but each split of RegDB has its "
            "own; compare split by split with --protocol regdb/N."
        )
    # A shell sorts split10 before split2.
    found = [re.search(r"\d+$", Path(given).stem) for given in options.features]
    numbers = [int(match[0]) for match in found if match]
    if len(numbers) == inputs and numbers != sorted(set(numbers)):
        raise MixERValueError(
            f"--protocol regdb takes input i for split i, but their names end in {numbers}; give "
            "them in the order of the splits."
        )
    return [f"regdb/{split}" for split in REGDB_SPLITS[:inputs]]


def _targets(options: argparse.Namespace, *, make: bool) -> list[OutputTarget]:
    """The target for the results of each input and of their mean, if any; makes the folders."""
    sources = [Path(given).absolute() for given in options.features]
    shown = list(options.features)
    names = [source.name if source.is_dir() else source.stem for source in sources]
    if options.protocol == _EACH_SPLIT:
        shown.append(f"{_MEAN} over {len(sources)} splits")
        names.append(_MEAN)
    twice = sorted({name for name in names if names.count(name) > 1})
    if options.out and twice:
        raise MixERValueError(
            f"Several results are named {twice[0]!r}, and so would their folders in "
            f"{options.out}; rename an input, or evaluate them with an --out each."
        )
    several = len(names) > 1
    targets = []
    for number, (name, inner) in enumerate(zip(shown, names, strict=True)):
        folder = Path(options.out) / (inner if several else "") if options.out else None
        if folder is not None and make:
            make_folder(folder)
        form = options.format or ("txt" if sys.stdout.isatty() else "md")
        target = OutputTarget(
            name=name,
            number=number,
            several=several,
            form="json" if options.json else form,
            folder=folder,
            quiet=options.quiet,
            document={} if options.json else None,
        )
        targets.append(target)
    return targets


def _load(options: argparse.Namespace, source: str, other: FeatureSet | None) -> FeatureSet:
    # One table of labels serves all .npy of the same images; others bring their own.
    alone = len(options.features) == 1
    labels = options.labels if alone or file_kind(Path(source)) == "npy" else None
    related = options.related or options.related_mat
    features = FeatureSet.load(source, labels=labels, related=related)
    if other is not None:
        check_same_images(features, other, f"--against {options.against}")
        compared_rules(features, other, options.compare_rule)
    return features


def _load_other(options: argparse.Namespace) -> FeatureSet | None:
    if not options.against:
        return None
    labels = options.labels if file_kind(Path(options.against)) == "npy" else None
    return FeatureSet.load(options.against, labels=labels)


def _settings(options: argparse.Namespace, protocol: Protocol) -> tuple[str, ...]:
    return tuple(options.settings.split(",")) if options.settings else protocol.settings


def _arguments(
    options: argparse.Namespace, features: FeatureSet, protocol: Protocol
) -> dict[str, Any]:
    """Arguments of ``evaluate``."""
    return {
        "systems": asked_systems(features, options.rules, options.calibration, options.rerank),
        "rerank": options.rerank,
        "settings": _settings(options, protocol),
        "query": options.query or protocol.query,
        "trials": options.trials,
        "device": options.device,
        "shard": options.shard,
    }


def asked_systems(
    features: FeatureSet,
    rules: str | None = None,
    calibration: str | None = None,
    rerank: str | None = None,
) -> list[System]:
    """Pairs of the options' rules and calibrations; left open, the controls are among them."""
    fused = ("mixer", "mixer-shuffled") if features.related is not None else ()
    every = rules.split(",") if rules else ("erased", *fused)
    names = calibration or ("none" if rerank is not None else "none,znorm,center")
    calibrations = [None if name == "none" else name for name in names.split(",")]
    return [(rule, name) for rule in every for name in calibrations]
