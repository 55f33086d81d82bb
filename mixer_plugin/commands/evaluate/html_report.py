"""Writes the page of ``mixer-plugin report --html``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mixer_plugin.commands.evaluate.run import asked_systems
from mixer_plugin.commands.evaluate.sections import check_same_images
from mixer_plugin.errors import MissingExtraError, MixERValueError
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.protocols import get_protocol
from mixer_plugin.evaluation.report.content import features_page
from mixer_plugin.evaluation.report.page import Page, can_write, write_page
from mixer_plugin.features import FeatureSet


def write_html(options: argparse.Namespace) -> None:
    """Evaluates what is given and writes the page.

    Raises:
        MissingExtraError: Jinja2 is not installed.
        MixERValueError: The inputs do not go together, or as ``evaluate``.
    """
    if not can_write():  # before anything is evaluated
        raise MissingExtraError("jinja2", "demo", "Writing an HTML report")
    target = Path(options.html)
    if not target.absolute().parent.is_dir():
        raise MixERValueError(
            f"--html {target} lies in no folder: {target.parent} is none. Create it, or give "
            "another file."
        )
    folders = [Path(given) for given in options.inputs if (Path(given) / "config.json").is_file()]
    if folders and len(options.inputs) > 1:
        raise MixERValueError(
            f"{folders[0]} is the folder of a run, which has a page of its own; give it alone, or "
            "features of its cells: cells/JOB/CELL.features.npz."
        )
    page = _run_page(options, folders[0]) if folders else _features_page(options)
    write_page(page, target)


def _run_page(options: argparse.Namespace, folder: Path) -> Page:
    from mixer_plugin.benchmarks.table3 import configured, report_page

    config = None
    if options.config is not None:
        config = configured(options.config, options.paper, options.weights)
    return report_page(config, folder)


def _features_page(options: argparse.Namespace) -> Page:
    protocol = get_protocol(options.protocol)
    sets = [FeatureSet.load(source) for source in options.inputs]
    for source, other in zip(options.inputs[1:], sets[1:], strict=True):
        check_same_images(sets[0], other, source)
    results = [
        evaluate(
            features,
            protocol,
            systems=asked_systems(features, options.rules),
            settings=options.settings.split(",") if options.settings else None,
            query=options.query,
            trials=options.trials,
        )
        for features in sets
    ]
    names = [Path(source).name.removesuffix(".npz").removesuffix(".features")
             for source in options.inputs]  # fmt: skip
    if len(set(names)) < len(names):
        names = [str(source) for source in options.inputs]
    shown = list(zip(names, sets, results, strict=True))
    return features_page(shown, protocol, trials=options.trials, plane=True)
