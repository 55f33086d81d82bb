"""Modality bias, pair tables and wrong labels, against loops from the definitions."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import SETTINGS, evaluate, get_protocol
from mixer_plugin.evaluation.analysis import ranked_lists
from mixer_plugin.evaluation.analysis.label_noise import wrong_labels
from mixer_plugin.evaluation.analysis.modality_bias import (
    MIXED,
    camera_pairs,
    modality_bias,
    modality_pairs,
)
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores
from mixer_plugin.matching.rules import RULES
from tests import bruteforce

CALIBRATIONS = (None, "znorm", "center")


def make(count=90, seed=0, identities=7):
    """Images in SYSU-MM01's cameras; some queries have no positive in some lists."""
    rng = np.random.default_rng(seed)
    modality = rng.integers(0, 2, count)
    ids = rng.integers(1, identities + 1, count)
    codes = rng.normal(size=(identities + 1, 6))
    return FeatureSet(
        erased=codes[ids] + rng.normal(size=(count, 6)) + 0.7 * modality[:, None],
        related=codes[ids] + rng.normal(size=(count, 6)),
        ids=ids,
        cams=np.where(modality == 1, rng.choice([3, 6], count), rng.choice([1, 2, 4, 5], count)),
        modality=modality,
    )


def listed(features, setting, q):
    """Rows of q's list, everything in the gallery."""
    labels = [features.ids.tolist(), features.cams.tolist(), features.modality.tolist()]
    return [g for g in range(len(features)) if bruteforce.allowed(setting, q, g, *labels)]


def ranked(features, setting, calibration=None):
    """By query, the rows of its list by falling score under the rule mixer."""
    own = torch.arange(len(features))
    lines = scores(features, features, "mixer", calibration, self_index=own).tolist()
    return [
        bruteforce.rank_list(line, listed(features, setting, q)) for q, line in enumerate(lines)
    ]


def mean(values):
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def average_precision(matches):
    return bruteforce.average_precision(matches) if any(matches) else math.nan


def first(matches):
    return matches.index(True) + 1 if True in matches else math.nan


def queries_of(features, query):
    side = {"visible": 0, "infrared": 1}[query]
    return [q for q in range(len(features)) if features.modality[q] == side]


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("query", ["infrared", "visible"])
def test_modality_bias_is_the_loop(query, calibration):
    features = make()
    ids, modality = features.ids.tolist(), features.modality.tolist()
    options = {"query": query, "calibration": calibration, "k": 7}
    report = modality_bias(features, "full", settings=SETTINGS, **options)
    for setting, row in zip(SETTINGS, report.rows, strict=True):
        figures, orders = [], ranked(features, setting, calibration)
        for q in queries_of(features, query):
            order = orders[q]
            match = [ids[g] == ids[q] for g in order]
            if not any(match):
                continue
            own = [modality[g] == modality[q] for g in order]
            both = list(zip(match, own, strict=True))
            figures.append(
                [
                    mean(own[:7]),
                    mean(own),
                    first([m and o for m, o in both]),
                    first([m and not o for m, o in both]),
                    average_precision([m for m, o in both if o or not m]),
                    average_precision([m for m, o in both if not (m and o)]),
                ]
            )
        expected = [mean(column) for column in zip(*figures, strict=True)]
        found = [row.share, row.expected, row.first_same, row.first_cross]
        found += [row.mAP_same, row.mAP_cross]
        assert (row.setting, row.query, row.k) == (setting, query, 7)
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert row.bias == row.share - row.expected


def test_bias_of_extremes():
    features = make(300, identities=20)
    modality = features.modality
    # Features that say the modality and nothing else: the top is the query's modality alone.
    code = torch.eye(2)[modality]
    blind = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    report = modality_bias(replace(features, erased=code), "full", rule="erased")
    assert tuple(row.setting for row in report.rows) == MIXED
    for row in report.rows:
        assert row.share == 1
        assert row.bias == 1 - row.expected
        assert 0.3 < row.expected < 0.6
    for row in modality_bias(replace(features, erased=blind), "full", rule="erased", k=20).rows:
        assert abs(row.bias) < 0.04
    # The whole list is the top.
    assert all(row.bias == 0 for row in modality_bias(features, "full", k=300).rows)
    # Related features that say modality and identity: positives of the own modality come first.
    told = torch.cat([2 * code, torch.eye(21)[features.ids]], dim=1)
    (mix, *_) = modality_bias(replace(features, related=told), "full", rule="related").rows
    assert mix.share == 1
    assert mix.mAP_same == 1
    assert mix.first_cross > 100


@pytest.mark.parametrize("setting", SETTINGS)
def test_pair_tables_are_the_loop(setting):
    features = make(70)
    ids = features.ids.tolist()
    cells = [(int(m), int(c)) for m, c in zip(features.modality, features.cams, strict=True)]
    for table, keys in (
        (modality_pairs(features, "full", setting=setting), [m for m, _ in cells]),
        (camera_pairs(features, "full", setting=setting), cells),
    ):
        names = sorted(set(keys))
        assert len(table.groups) == len(names)
        lines = ranked(features, setting)
        for i, mine in enumerate(names):
            for j, other in enumerate(names):
                aps, hits = [], []
                for q in range(70):
                    match = [ids[g] == ids[q] for g in lines[q] if keys[g] == other]
                    if keys[q] == mine and any(match):
                        aps.append(average_precision(match))
                        hits.append(float(match[0]))
                found = (table.mAP[i, j], table.r1[i, j])
                assert found == pytest.approx((mean(aps), mean(hits)), abs=1e-12, nan_ok=True)
                assert table.queries[i, j] == len(aps)
    assert table.groups[0] == "camera 1, visible"
    assert table.groups[-1] == "camera 6, infrared"


def test_pair_tables_agree_with_evaluate():
    """The off-diagonal of mix is cross, the diagonal of uni is uni; also over several draws."""
    features = make(200)
    protocol = replace(get_protocol("sysu/all/single@ye"), colocated=())
    results = evaluate(features, protocol, settings=("cross", "uni"), query="both", trials=4)
    mix = modality_pairs(features, protocol, trials=4)
    uni = modality_pairs(features, protocol, setting="uni", trials=4)
    for side, name in enumerate(("visible", "infrared")):
        cross = results.get("cross", "mixer", query=name)
        assert mix.mAP[side, 1 - side] == pytest.approx(cross.mAP, abs=1e-12)
        assert mix.r1[side, 1 - side] == pytest.approx(cross.r1, abs=1e-12)
        assert mix.queries[side, 1 - side] == cross.queries_valid
        own = results.get("uni", "mixer", query=name)
        assert uni.mAP[side, side] == pytest.approx(own.mAP, abs=1e-12)
        assert math.isnan(uni.mAP[side, 1 - side])


def test_one_modality_alone_has_a_table():
    features = make()
    visible = features[features.modality == 0]
    table = modality_pairs(visible, "full", setting="uni")
    assert table.mAP[0, 0] > 0
    assert np.isnan(table.mAP).sum() == 3
    assert "–" in table.to_markdown()


@pytest.mark.slow
@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize(
    "protocol",
    [
        "full",
        "sysu/all/single@ye",
        replace(get_protocol("sysu/indoor/single@ye"), colocated_mixed=True),
        get_protocol("full", same_camera="same-id"),
        get_protocol("full", same_camera="keep"),
    ],
    ids=str,
)
def test_right_labels_give_what_evaluate_gives(protocol, calibration, monkeypatch):
    monkeypatch.setattr(ranked_lists, "_SCORED", 1500)  # several blocks to score, and of these
    monkeypatch.setattr(ranked_lists, "_BLOCK", 700)  # several to rank
    features = make()
    for rule in ("mixer", "mixer-shuffled", "mixer-calibrated", "dev-sum"):
        options = {"query": "visible", "calibration": calibration}
        results = evaluate(features, protocol, rules=(rule,), **options)
        report = wrong_labels(
            features, protocol, settings=SETTINGS, rule=rule, probabilities=(0,), **options
        )
        for row in report.rows:
            expected = results.get(row.setting, rule, calibration=calibration).mAP
            assert row.mAP == pytest.approx(expected, abs=1e-12)
            assert row.draws == 1
            assert math.isnan(row.mAP_std)


def test_ties_fall_as_in_evaluate():
    features = make(200)
    features = replace(features, erased=torch.eye(3)[torch.arange(200) % 3])  # all is 0 or 1
    results = evaluate(features, "full", rules=("erased",))
    row = results.get("mix", "erased")
    assert row.mAP_pessimistic < row.mAP < row.mAP_optimistic
    report = wrong_labels(features, "full", settings=SETTINGS, rule="erased", probabilities=(0,))
    for row in report.rows:
        assert row.mAP == pytest.approx(results.get(row.setting, "erased").mAP, abs=1e-12)


def test_the_protocol_says_who_asks():
    visible = make(90)
    folders = np.where(np.arange(90) < 30, "query", "bounding_box_test")
    paths = [f"{folder}/{row}.jpg" for row, folder in enumerate(folders)]
    features = replace(visible, modality=np.zeros(90), paths=paths)
    options = {"settings": ("uni",), "query": "visible"}
    (row,) = modality_bias(features, "market1501", rule="erased", **options).rows
    results = evaluate(features, "market1501", rules=("erased",), **options)
    assert row.mAP_same == pytest.approx(results.get("uni", "erased").mAP, abs=1e-12)
    assert math.isnan(row.mAP_cross)
    table = modality_pairs(features, "market1501", setting="uni", rule="erased")
    assert table.queries[0, 0] == results.get("uni", "erased").queries_valid


def literal_score(features, told, q, g):
    unit = torch.nn.functional.normalize
    e = unit(features.erased.double())
    r = unit(features.related.double())
    weight = RULES["mixer"].weights(told[q], told[g])
    return float(weight[0] * (e[q] @ e[g]) + weight[1] * (r[q] @ r[g]))


def test_wrong_labels_are_the_loop():
    features = make(40, identities=5)
    ids, true = features.ids.tolist(), features.modality.tolist()
    report = wrong_labels(features, "full", probabilities=(0.3, 1), draws=3, seed=8)
    expected = {}
    for chance in (0.3, 1):
        for draw in range(3):
            flips = np.random.default_rng([8, draw]).random(40) < chance
            told = [1 - m if flip else m for m, flip in zip(true, flips, strict=True)]
            for setting in MIXED:
                aps = []
                for q in queries_of(features, "infrared"):
                    rows = listed(features, setting, q)
                    line = {g: literal_score(features, told, q, g) for g in rows}
                    order = sorted(rows, key=lambda row: -line[row])
                    aps.append(average_precision([ids[g] == ids[q] for g in order]))
                expected.setdefault((setting, chance), []).append(mean(aps))
    for row in report.rows:
        values = expected[row.setting, row.probability]
        assert row.mAP == pytest.approx(np.mean(values), abs=1e-9)
        if row.probability == 1:  # nothing is drawn; who shares a modality is as it was
            assert row.draws == 1
            (right,) = wrong_labels(
                features, "full", settings=(row.setting,), probabilities=(0,)
            ).rows
            assert row.mAP == pytest.approx(right.mAP, abs=1e-12)
        else:
            assert row.draws == 3
            assert row.mAP_std == pytest.approx(np.std(values, ddof=1), abs=1e-9)
            assert row.mAP_std > 0


def test_wrong_labels_hurt_where_labels_count():
    features = make(240, identities=20)
    # Related features of one modality are another code than the other's: across they say nothing.
    codes = torch.randn(2, 21, 8, generator=torch.Generator().manual_seed(1))
    features = replace(features, related=codes[features.modality, features.ids])
    rows = wrong_labels(features, "full", settings=("mix",), draws=3).rows
    assert [row.probability for row in rows] == [0, 0.05, 0.1, 0.2, 0.5]
    levels = [row.mAP for row in rows]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > levels[-1] + 0.05
    # The erased cosine alone asks for no label.
    unmoved = wrong_labels(features, "full", rule="erased", draws=2).rows
    for row in unmoved:
        (right,) = [r for r in unmoved if r.setting == row.setting and r.probability == 0]
        assert row.mAP == pytest.approx(right.mAP, abs=1e-12)
    again = wrong_labels(features, "full", settings=("mix",), draws=3).rows
    assert [row.mAP for row in again] == levels
    other = wrong_labels(features, "full", settings=("mix",), draws=3, seed=1).rows
    assert other[1].mAP != rows[1].mAP


def test_forms_hold_the_figures():
    features = make()
    bias = modality_bias(features, "full")
    lines = bias.to_markdown().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert f"{100 * bias.rows[0].bias:+.2f}" in lines[2]
    assert json.loads(bias.to_json())[1]["bias"] == bias.rows[1].bias
    pairs = camera_pairs(features, "full", setting="mix-cam")
    lines = pairs.to_markdown().splitlines()
    assert len(lines) == 2 + 6
    assert f"{100 * pairs.mAP[0, 1]:.2f} / {100 * pairs.r1[0, 1]:.2f}" in lines[2]
    content = json.loads(pairs.to_json())
    assert content["mAP"][0][0] is None
    assert content["r1"][0][1] == pairs.r1[0, 1]
    noise = wrong_labels(features, "full", probabilities=(0, 0.1), draws=2)
    lines = noise.to_markdown().splitlines()
    assert lines[0].count("% wrong") == 2
    row = noise.rows[1]
    assert f"{100 * row.mAP:.2f} ± {100 * row.mAP_std:.2f}" in lines[2]
    assert json.loads(noise.to_json())[0]["mAP_std"] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: modality_bias(f, "full", k=0), "at least 1, got 0"),
        (lambda f: modality_bias(f, "full", query="both"), "Unknown query 'both'"),
        (lambda f: modality_bias(f, "full", settings=("mixid",)), "Did you mean 'mix-id'"),
        (lambda f: modality_bias(f, "ful"), "Did you mean 'full'"),
        (lambda f: modality_pairs(f, "full", rule="mixr"), "Did you mean 'mixer'"),
        (lambda f: camera_pairs(f, "full", calibration="zscore"), "Unknown calibration"),
        (lambda f: wrong_labels(f, "full", probabilities=(1.2,)), r"lie in \[0, 1\]"),
        (lambda f: wrong_labels(f, "full", draws=0), "at least 1"),
        (lambda f: wrong_labels(replace(f, related=None), "full"), "needs related"),
        (lambda f: modality_bias(f[f.modality == 0], "full"), "no infrared image to query with"),
        (lambda f: modality_pairs(f, "market1501"), "holds visible images only"),
    ],
)
def test_wrong_arguments_are_explained(call, message):
    with pytest.raises(MixERValueError, match=message):
        call(make())
