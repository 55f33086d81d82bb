from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet, evaluate
from mixer_plugin.cli import main
from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.reduction import Reduction, fit_reduction
from mixer_plugin.search.reduction.report import reduction_report
from tests.search_cases import make

SETTINGS = ["cross", "mix"]


def test_the_report_holds_what_evaluate_gives():
    features = make(90)
    report = reduction_report(features, dims=(20, 8, 4), settings=SETTINGS)
    ways = list(dict.fromkeys((c.erased, c.related, c.centered, c.precision) for c in report.costs))
    names = ("float32", "float16", "int8")
    assert ways == [
        *((12, 7, None, name) for name in names),
        *((8, 7, False, name) for name in names),
        (8, 7, True, "float32"),
        *((4, 4, False, name) for name in names),
        (4, 4, True, "float32"),
    ]
    whole = evaluate(features, "full", rules=["mixer"], settings=SETTINGS)
    assert [cost.mAP for cost in report.costs[:2]] == [row.mAP for row in whole.rows]
    assert all(cost.mAP_lost == cost.r1_lost == 0 for cost in report.costs[:2])
    by_way = {(c.erased, c.centered, c.precision, c.setting): c for c in report.costs}
    for center in (False, True):
        reduced = fit_reduction(features, 4, center=center).apply(features)
        row = evaluate(reduced, "full", rules=["mixer"], settings=["mix"]).rows[0]
        cost = by_way[4, center, "float32", "mix"]
        assert (cost.mAP, cost.r1) == pytest.approx((row.mAP, row.r1), abs=2e-3)
        assert cost.mAP_lost == by_way[12, None, "float32", "mix"].mAP - cost.mAP
    assert by_way[4, False, "int8", "mix"].bytes == 8
    assert by_way[4, False, "int8", "mix"].mAP != by_way[4, False, "float32", "mix"].mAP


def test_fitting_on_other_images_gives_other_figures():
    features, train = make(90), make(70, 5)
    mine, theirs = (
        reduction_report(features, dims=(3,), fit=fit, settings=["mix"]) for fit in (None, train)
    )
    assert mine.costs[-1].mAP != theirs.costs[-1].mAP
    assert "70 images, other images" in theirs.to_markdown()


def test_what_cannot_be_reported_is_refused():
    with pytest.raises(MixERValueError, match="None of 2048, 1024, 512, 256, 128 can be tried"):
        reduction_report(make(50))
    with pytest.raises(MixERValueError, match="there are 4 images to fit on"):
        reduction_report(make(50), dims=(5,), fit=make(4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(80).save("gallery.npz")
    make(20, 1).save("query.npz")
    make(60, 2).save("train.npz")
    return tmp_path


def run(capsys, *arguments):
    status = main(["reduce", *arguments])
    printed = capsys.readouterr()
    assert (status == 2) == bool(printed.err)
    return printed.err or printed.out


def test_the_command_reduces_as_the_functions_do(folder, capsys):
    fit = ["--dim", "5", "--fit", "train.npz", "--save", "pca.npz", "--precision", "int8"]
    out = run(capsys, "gallery.npz", "--out", "small.npz", *fit)
    run(capsys, "query.npz", "--load", "pca.npz", "--out", "asked.npz")
    reduction = Reduction.load("pca.npz")
    assert reduction.fingerprint in out
    assert fit_reduction(make(60, 2), 5).fingerprint == reduction.fingerprint
    asked = FeatureSet.load("asked.npz")
    assert torch.equal(asked.erased, reduction.apply(make(20, 1)).erased)
    assert asked.reduction == FeatureSet.load("small.npz").reduction == reduction.fingerprint
    assert np.load("small.npz")["erased"].dtype == np.int8


def test_the_command_reports(folder, capsys):
    options = ["gallery.npz", "--dims", "8,4", "--settings", "mix", "--report"]
    table = run(capsys, *options, "costs.json")
    costs = json.loads((folder / "costs.json").read_text())["costs"]
    assert len(costs) == 11
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 + len(costs)
    assert f"| 12 + 7, as given | float32 | 76 | {100 * costs[0]['mAP']:.2f} |" in table
    run(capsys, *options, "costs.md")
    assert (folder / "costs.md").read_text() == table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give --report, or --out with --dim"),
        (["--out", "x.npz"], "Give --report, or --out with --dim"),
        (["--out", "x.npz", "--dim", "5", "--load", "p.npz"], "Give --report, or --out with --dim"),
        (["--out", "x.npz", "--load", "p.npz", "--center"], "--load takes a reduction as it is"),
        (["--out", "x.npz", "--dim", "5", "--rule", "mixer"], "--rule is for --report"),
        (["--report", "--dim", "5"], "--dim reduces features and --report measures"),
        (["--report", "x.txt"], "--report takes a name on .json or .md"),
        (["--report", "--dims", "5,x"], "--dims takes whole numbers"),
        (["--out", "x.npz", "--dim", "5", "--precision", "int4"], "Did you mean 'int8'"),
    ],
)
def test_the_command_says_what_is_wrong(folder, capsys, arguments, message):
    assert message in run(capsys, "gallery.npz", *arguments)
    assert not (folder / "x.npz").exists()
