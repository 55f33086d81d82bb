"""What ``mixer-plugin evaluate`` does."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.audit import audit
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.protocols import get_protocol
from mixer_plugin.evaluation.report import Results
from mixer_plugin.feature_files import file_kind
from mixer_plugin.features import FeatureSet

AUDIT_FAILED = 4
FORMS: dict[str, Callable[[Results], str]] = {
    "md": Results.to_markdown,
    "csv": Results.to_csv,
    "tex": Results.to_latex,
    "json": Results.to_json,
}


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluates each input; returns the exit status, ``AUDIT_FAILED`` if an audit fails.

    Raises:
        MixERError: Options do not fit together, a file is malformed, or ``evaluate`` refuses.
    """
    inputs = [Path(given) for given in options.features]
    _check(options, inputs)
    protocol = get_protocol(
        options.protocol,
        permutation=options.permutation,
        cmc=options.cmc,
        colocated_mixed=options.colocated_mixed,
    )
    folders = _folders(inputs, options.out)
    several, failed = len(inputs) > 1, False
    # What is not a table goes elsewhere where a program may read the tables.
    talk = sys.stdout if options.format == "md" else sys.stderr
    for number, source in enumerate(inputs):
        features = _load(options, source, several)
        results = evaluate(features, protocol, **_arguments(options, features))
        if folders:
            _write(results, folders[number])
        if several and options.format == "md":
            print(f"## {source}\n")
        print(f"{results.contract}\n", file=talk)
        text = FORMS[options.format](results)
        print(_named(text, options.format, str(source), number) if several else text, end="")
        if options.audit is not None:
            found = audit(features, protocol, results, queries=options.audit)
            print(f"\n{found}", file=talk)
            failed |= not found.ok
        if several and options.format == "md":
            print()
    return AUDIT_FAILED if failed else 0


def _check(options: argparse.Namespace, inputs: list[Path]) -> None:
    """Raises for what would otherwise fail after an evaluation, or do nothing."""
    for source in inputs:
        file_kind(source)
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
    if options.audit is not None and options.audit < 1:
        raise MixERValueError(f"--audit needs at least one query, got {options.audit}.")
    if options.audit is not None and options.rerank is not None:
        raise MixERValueError(
            "--audit ranks by the scores themselves and knows nothing of re-ranking; leave one of "
            "--audit and --rerank out."
        )
    if options.device is not None:
        try:
            torch.empty(0, device=options.device)
        except (RuntimeError, AssertionError) as error:
            raise MixERValueError(
                f"--device {options.device} cannot be used ({str(error).splitlines()[0]}); "
                "leave it out for the CPU."
            ) from error


def _folders(inputs: list[Path], out: str | None) -> list[Path]:
    """A folder for each input's tables, made; none without ``out``."""
    if out is None:
        return []
    places = [path.absolute() for path in inputs]
    names = [place.name if place.is_dir() else place.stem for place in places]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MixERValueError(
            f"Several inputs are named {twice[0]!r}, and so would their folders in {out}; rename "
            "one, or evaluate them with an --out each."
        )
    folders = [Path(out)] if len(inputs) == 1 else [Path(out) / name for name in names]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MixERValueError(f"Cannot make the folder {folder}: {error.strerror}.") from error
    return folders


def _load(options: argparse.Namespace, source: Path, several: bool) -> FeatureSet:
    # One table of labels serves all .npy of the same images; others bring their own.
    labels = None if several and file_kind(source) != "npy" else options.labels
    return FeatureSet.load(source, labels=labels, related=options.related or options.related_mat)


def _arguments(options: argparse.Namespace, features: FeatureSet) -> dict[str, Any]:
    """Arguments of ``evaluate``; where rules are left open, the controls are among them."""
    rules = ("erased", "mixer", "mixer-shuffled") if features.related is not None else ("erased",)
    calibrations: tuple[str | None, ...] = (None, "znorm", "center")
    given: dict[str, Any] = {"rules": rules, "calibration": calibrations}
    if options.rerank is not None:
        given |= {"rerank": options.rerank, "calibration": None}
    if options.settings:
        given["settings"] = tuple(options.settings.split(","))
    if options.rules:
        given["rules"] = tuple(options.rules.split(","))
    if options.calibration:
        names = options.calibration.split(",")
        given["calibration"] = tuple(None if name == "none" else name for name in names)
    return given | {
        "query": options.query,
        "trials": options.trials,
        "device": options.device,
    }


def _write(results: Results, folder: Path) -> None:
    for suffix, form in FORMS.items():
        aside = folder / f"evaluation.{suffix}.partial"
        aside.write_text(form(results), encoding="utf-8")
        os.replace(aside, folder / f"evaluation.{suffix}")


def _named(text: str, form: str, source: str, number: int) -> str:
    """One of several tables, with its input: a comment, a column, or a field of a JSON line."""
    if form == "tex":
        return f"% {source}\n{text}\n"
    if form == "json":
        return json.dumps({"features": source, **json.loads(text)}) + "\n"
    if form == "csv":
        head, *rows = csv.reader(io.StringIO(text))
        stream = io.StringIO()
        table = [["features", *head]] * (number == 0) + [[source, *row] for row in rows]
        csv.writer(stream).writerows(table)
        return stream.getvalue()
    return text
