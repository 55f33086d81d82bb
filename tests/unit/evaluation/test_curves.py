"""Curves over the gallery's mixture and size, and protocols with given draws."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from mixer_plugin.errors import MissingExtraError, MixERValueError
from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.evaluation.analysis import curves
from mixer_plugin.evaluation.analysis.curves import Curve, gallery_curve, mixing_curve, plot_curve
from mixer_plugin.evaluation.protocols.fixed_gallery import fixed_gallery
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores
from tests import bruteforce


def make(count=120, seed=0, identities=10):
    rng = np.random.default_rng(seed)
    modality = np.arange(count) % 3 // 2  # twice as many visible as infrared ones
    ids = rng.integers(1, identities + 1, count)
    codes = rng.normal(size=(identities + 1, 6))
    return FeatureSet(
        erased=codes[ids] + rng.normal(size=(count, 6)),
        related=codes[ids] + rng.normal(size=(count, 6)),
        ids=ids,
        cams=np.where(modality == 1, rng.choice([3, 6], count), rng.choice([1, 2, 4, 5], count)),
        modality=modality,
    )


def literal(features, setting, galleries, query=1):
    """Mean and deviation of mAP over galleries."""
    labels = [features.ids.tolist(), features.cams.tolist(), features.modality.tolist()]
    lines = scores(features, features, "mixer").tolist()
    queries = [q for q in range(len(features)) if labels[2][q] == query]
    values = [
        bruteforce.evaluate_draw(
            [lines[q] for q in queries], queries, rows.tolist(), setting, *labels, dedup=False
        )[0]["mAP"]
        for rows in galleries
    ]
    return np.mean(values), np.std(values, ddof=1)


@pytest.fixture
def galleries(monkeypatch):
    """The galleries of every point of the curves drawn."""
    seen = []

    def spy(protocol, gallery, note):
        made = fixed_gallery(protocol, gallery, note)
        seen.append(made)
        return made

    monkeypatch.setattr(curves, "fixed_gallery", spy)
    return seen


@pytest.mark.parametrize("setting", ["mix", "mix-id"])
def test_mixing_curve_is_the_loop(galleries, setting):
    features = make()
    shares = (0.0, 0.3, 1.0)
    curve = mixing_curve(features, "full", shares=shares, size=30, draws=3, setting=setting, seed=4)
    modality = features.modality.numpy()
    for (share, row), protocol in zip(curve.points, galleries, strict=True):
        assert len(protocol.gallery) == row.trials == 3
        for rows in protocol.gallery:
            assert len(set(rows.tolist())) == 30
            assert modality[rows].sum() == round(30 * share)
        if setting == "mix-id" and share == 1:
            assert math.isnan(row.mAP)  # all positives lie across
            continue
        found = literal(features, setting, protocol.gallery)
        assert (row.mAP, row.mAP_std) == pytest.approx(found, abs=1e-12)
        assert row.setting == setting
        assert row.gallery_size == 30
        assert f"a share of {share:g} of them infrared" in protocol.describe()
    for small, large in zip(galleries[1].gallery, galleries[2].gallery, strict=True):
        infrared = set(small[modality[small] == 1].tolist())
        assert infrared < set(large.tolist())
    assert len({tuple(rows.tolist()) for rows in galleries[1].gallery}) == 3
    again = mixing_curve(features, "full", shares=shares, size=30, draws=3, setting=setting, seed=4)
    assert again.to_json() == curve.to_json()
    other = mixing_curve(features, "full", shares=shares, size=30, draws=3, setting=setting, seed=5)
    assert other.to_json() != curve.to_json()


def test_the_largest_mixture_is_taken():
    features = make()  # 80 visible, 40 infrared
    assert mixing_curve(features, "full", draws=1).points[0][1].gallery_size == 40
    half = mixing_curve(features, "full", shares=(0.5,), draws=1)
    assert half.points[0][1].gallery_size in (80, 81)  # half of 81 is rounded to 40
    (third,) = mixing_curve(features, "full", shares=(1 / 3,), draws=1).points
    assert third[1].gallery_size == 120
    assert third[1].mAP == evaluate(features, "full", settings=("mix",)).get("mix", "mixer").mAP
    with pytest.raises(MixERValueError, match="at most 40"):
        mixing_curve(features, "full", size=41)


def test_gallery_curve_is_the_loop(galleries):
    features = make()
    ids = features.ids.numpy()
    curve = gallery_curve(features, "full", fractions=(0.25, 0.5, 1), draws=3, seed=4)
    assert [value for value, _ in curve.points] == [3, 5, 10]
    for (count, row), protocol in zip(curve.points, galleries, strict=True):
        for rows in protocol.gallery:
            names = set(ids[rows].tolist())
            assert len(names) == count
            assert rows.tolist() == np.flatnonzero(np.isin(ids, list(names))).tolist()
        found = literal(features, "mix", protocol.gallery)
        assert (row.mAP, row.mAP_std) == pytest.approx(found, abs=1e-12)
        asking = [
            np.isin(ids[features.modality == 1], ids[rows]).sum() for rows in protocol.gallery
        ]
        assert row.queries_valid == pytest.approx(np.mean(asking))
    for small, large in zip(galleries[0].gallery, galleries[1].gallery, strict=True):
        assert set(small.tolist()) < set(large.tolist())
    whole = curve.points[-1][1]
    assert whole.mAP == evaluate(features, "full", settings=("mix",)).get("mix", "mixer").mAP
    assert whole.mAP_std == 0
    levels = [row.mAP for _, row in gallery_curve(make(600, identities=60), "full").points]
    assert levels == sorted(levels, reverse=True)  # distractors hurt


def test_curves_draw_from_the_protocols_own_galleries(galleries):
    features = make(400)
    protocol = get_protocol("sysu/all/single@ye")
    own = protocol.draws(features)
    mixing_curve(features, protocol, draws=12, shares=(0.5,))
    gallery_curve(features, protocol, draws=12, fractions=(0.5,))
    for made in galleries:
        assert (made.cmc, made.colocated) == ("dedup", ((2, 3),))
        for draw, rows in enumerate(made.gallery):
            assert set(rows.tolist()) < set(own[draw % 10].tolist())


def test_given_draws_are_a_protocol_like_any_other():
    features = make(300)
    protocol = get_protocol("sysu/indoor/single@ye", colocated_mixed=True)
    given = fixed_gallery(protocol, protocol.draws(features), "what the protocol draws")
    for name in ("id", "cmc", "same_camera", "colocated", "colocated_mixed", "no_positive"):
        assert getattr(given, name) == getattr(protocol, name)
    one, two = (evaluate(features, p, query="both") for p in (protocol, given))
    assert [row.mAP for row in one.rows] == [row.mAP for row in two.rows]
    assert [row.r5 for row in one.rows] == [row.r5 for row in two.rows]
    first = evaluate(features, given, trials=1, settings=("mix",)).rows[0]
    assert first.mAP == evaluate(features, protocol, trials=1, settings=("mix",)).rows[0].mAP
    contract = given.describe(features)
    assert "what the protocol draws" in contract
    assert "10 given galleries" in contract
    assert replace(given, cmc="standard").cmc == "standard"
    assert given.draws(features)[0].tolist() == protocol.draws(features)[0].tolist()
    with pytest.raises(MixERValueError, match="10 galleries are given, but trials=11"):
        given.draws(features, 11)
    for wrong in ([], [np.array([], dtype=int)], [np.array([1, 1])]):
        with pytest.raises(MixERValueError, match="at least one gallery"):
            fixed_gallery("full", wrong, "")


def test_given_draws_ask_who_the_protocol_asks():
    folders = np.where(np.arange(40) < 10, "query", "bounding_box_test")
    features = replace(
        make(40), modality=np.zeros(40), paths=[f"{f}/{i}.jpg" for i, f in enumerate(folders)]
    )
    given = fixed_gallery("market1501", [np.arange(10, 40)], "all")
    assert given.queries(features, 0).tolist() == list(range(10))
    assert "folder 'query'" in given.describe()
    few = fixed_gallery(
        "market1501", [np.arange(10, 40)] * 2, "all", query_rows=np.array([3, 7, 12])
    )
    assert few.queries(features, 0).tolist() == [3, 7]  # row 12 is no query
    assert "only those among 3 given rows" in few.describe()
    assert "\ntrials      2\n" in few.describe()
    (row,) = evaluate(features, few, rules=("erased",)).rows
    assert row.queries_valid + row.queries_dropped == 2
    none = fixed_gallery("market1501", [np.arange(10, 40)], "all", query_rows=np.array([12]))
    with pytest.raises(MixERValueError, match="finds no visible query"):
        evaluate(features, none, rules=("erased",))
    with pytest.raises(MixERValueError, match="visible images only"):
        evaluate(features, given, settings=("mix",))
    (row,) = evaluate(features, given, rules=("erased",)).rows
    assert (row.setting, row.query) == ("uni", "visible")
    assert row.gallery_size == 30


def test_forms_hold_the_figures():
    curve = mixing_curve(make(), "full", shares=(0.25, 0.5), draws=2)
    lines = curve.to_markdown().splitlines()
    assert len(lines) == 2 + 2
    assert len({line.count("|") for line in lines}) == 1
    row = curve.points[0][1]
    assert lines[2].startswith(f"| 0.25 | {100 * row.mAP:.2f} ± {100 * row.mAP_std:.2f} |")
    content = json.loads(curve.to_json())
    assert content["points"][1]["r1"] == curve.points[1][1].r1
    once = mixing_curve(make(), "full", shares=(0.25,), draws=1)
    assert "±" not in once.to_markdown()
    assert json.loads(once.to_json())["points"][0]["mAP_std"] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: mixing_curve(f, "full", shares=(0.5, 1.5)), "from 0"),
        (lambda f: mixing_curve(f, "full", shares=()), "must be given"),
        (lambda f: mixing_curve(f, "full", draws=0), "at least 1"),
        (lambda f: mixing_curve(f, "full", size=0), "at least 1"),
        (lambda f: gallery_curve(f, "full", fractions=(0.0,)), "above 0"),
        (lambda f: gallery_curve(f, "full", rule="mixr"), "Did you mean 'mixer'"),
        (lambda f: gallery_curve(f, "ful"), "Did you mean 'full'"),
        (lambda f: mixing_curve(f, "full", query="both"), "Unknown query 'both'"),
    ],
)
def test_wrong_arguments_are_explained(call, message):
    with pytest.raises(MixERValueError, match=message):
        call(make())


def made_curve():
    row = evaluate(make(), "full", settings=("mix",)).get("mix", "mixer")
    return Curve("identities", ((3.0, row), (5.0, dataclasses.replace(row, mAP_std=0.1))))


def test_a_curve_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="draws with matplotlib (extra 'bench')")
    for name, start in (("curve.png", b"\x89PNG"), ("curve.pdf", b"%PDF")):
        plot_curve(made_curve(), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.pdf", "curve.png"]
    with pytest.raises(MixERValueError, match="create it before"):
        plot_curve(made_curve(), tmp_path / "none" / "curve.png")
    with pytest.raises(MixERValueError, match=r"no known format; end the name in one of .*png"):
        plot_curve(made_curve(), tmp_path / "curve.xyz")


def test_drawing_without_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"matplotlib.*\[demo\]"):
        plot_curve(made_curve(), tmp_path / "curve.png")
