"""The work of ``mixer-plugin reduce``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mixer_plugin.commands.shared.telling import for_people, show
from mixer_plugin.errors import MixERValueError, closest
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.atomic_write import write_text
from mixer_plugin.search.reduction import Reduction, fit_reduction
from mixer_plugin.search.reduction.report import DIMS, reduction_report

_FORMS = ("json", "md")
_OF_REPORT = ("dims", "protocol", "settings", "rule", "query")


def run_reduce(options: argparse.Namespace) -> int:
    """Reduces features, or reports what that costs.

    Raises:
        MixERValueError: Options that contradict each other or the files.
    """
    _check(options)
    features = FeatureSet.load(options.features)
    fit = None if options.fit is None else FeatureSet.load(options.fit)
    if options.report is not None:
        return _report(options, features, fit)
    if options.load is None:
        source = features if fit is None else fit
        reduction = fit_reduction(source, options.dim, center=options.center)
    else:
        reduction = Reduction.load(options.load)
    reduced = reduction.apply(features)
    if options.save is not None:
        reduction.save(options.save)
    reduced.save(options.out, precision=options.precision)
    found = {"file": options.out, "features": str(reduced), "reduction": str(reduction)}
    text = f"{reduction}\n{reduced}, {options.precision}: {options.out}"
    show(options, text, {**found, "precision": options.precision})
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.report is not None:
        given = [n for n in ("dim", "load", "save", "out", "center") if getattr(options, n)]
        if given:
            raise MixERValueError(
                f"--{given[0]} reduces features and --report measures what that costs, of both "
                "kinds of PCA; give one of the two."
            )
        return
    given = [name for name in _OF_REPORT if getattr(options, name) is not None]
    if given:
        raise MixERValueError(f"--{given[0]} is for --report; add --report or leave it out.")
    if options.out is None or (options.dim is None) == (options.load is None):
        raise MixERValueError(
            "Give --report, or --out with --dim (fits a reduction) or --load (takes one that "
            "--save wrote)."
        )
    if options.load is not None and (options.fit or options.save or options.center):
        raise MixERValueError("--load takes a reduction as it is; leave --fit, --save, --center.")


def _report(options: argparse.Namespace, features: FeatureSet, fit: FeatureSet | None) -> int:
    path = None if options.report == "-" else Path(options.report)
    form = "md" if path is None else path.suffix[1:]
    if form not in _FORMS:
        raise MixERValueError(f"--report takes a name on .json or .md.{closest(form, _FORMS)}")
    settings = None if options.settings is None else options.settings.split(",")
    report = reduction_report(
        features,
        options.protocol or "full",
        dims=DIMS if options.dims is None else _numbers(options.dims),
        fit=fit,
        rule=options.rule,
        settings=settings,
        query=options.query,
    )
    if path is not None:
        write_text(path, report.to_json() if form == "json" else report.to_markdown())
    show(options, for_people(report.to_markdown()), json.loads(report.to_json()))
    return 0


def _numbers(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError as error:
        raise MixERValueError(
            f"--dims takes whole numbers, such as 512,128; got {text!r}."
        ) from error
