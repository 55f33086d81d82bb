"""The audit: it agrees with sound results, and sabotage of every kind does not pass it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import SETTINGS, evaluate, get_protocol
from mixer_plugin.evaluation.audit import audit as audit_module
from mixer_plugin.evaluation.audit.audit import audit
from mixer_plugin.evaluation.audit.reference import (
    is_listed,
    literal_scores,
    measure,
    read_labels_of,
)
from mixer_plugin.evaluation.settings import find_groups, view
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import CALIBRATIONS
from mixer_plugin.matching.rules import RULES
from tests import bruteforce

EVERY = (None, *CALIBRATIONS)


def make(count=90, seed=0, ids=8, cams=3, quantised=False, shared=False):
    rng = np.random.default_rng(seed)
    modality = rng.integers(0, 2, count)
    modality[:2] = 0, 1
    person = rng.integers(1, ids + 1, count)
    codes = rng.normal(size=(2, ids + 1, 12))
    spread = np.where(modality == 1, 1.0, 0.3)[:, None]
    erased = codes[0, person] + spread * rng.normal(size=(count, 12)) + 0.5 * modality[:, None]
    related = codes[modality, person, :8] + 0.5 * rng.normal(size=(count, 8))
    if quantised:  # cosines are multiples of 1/4 or 1/2: ties everywhere, exact in float32
        erased, related = (rng.choice([-1.0, 1.0], (count, width)) for width in (16, 4))
    return FeatureSet(
        erased=erased,
        related=related,
        ids=person,
        cams=rng.integers(1, cams + 1, count) + (0 if shared else 10 * modality),
        modality=modality,
        paths=[f"{row}.jpg" for row in range(count)],
    )


def evaluated(features, protocol="full", **options):
    given = {"rules": tuple(RULES), "calibration": EVERY, "query": "both"} | options
    return evaluate(features, protocol, **given)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_sound_results_pass_in_every_row(shared):
    features = make(60, shared=shared)
    results = evaluated(features)
    found = audit(features, "full", results, queries=1000)
    assert found.ok, str(found)
    assert found.complete
    assert {row.key for row in found.rows} == {row.key for row in results.rows}
    sizes = {"visible": int((features.modality == 0).sum())}
    sizes["infrared"] = len(features) - sizes["visible"]
    for row in found.rows:
        assert row.queries == sizes[row.key[2]]
        assert row.equal + row.near_ties + row.wrong == row.queries
        assert row.equal == row.queries
        assert row.largest <= 1e-12
        assert 0 < row.score_error < 1e-4


def test_sound_results_pass_under_heavy_ties():
    features = make(quantised=True)
    results = evaluated(features, rules=("erased", "mixer", "related"), calibration=None)
    found = audit(features, "full", results, queries=1000)
    assert found.ok, str(found)
    assert all(row.equal == row.queries for row in found.rows)  # ties fall as documented


@pytest.mark.parametrize("cmc", ["dedup", "standard"])
@pytest.mark.parametrize("same_camera", ["any-id", "same-id", "keep"])
@pytest.mark.parametrize("colocated_mixed", [False, True])
def test_sound_results_pass_under_every_protocol_option(cmc, same_camera, colocated_mixed):
    features = make(60, shared=True)
    protocol = dataclasses.replace(
        get_protocol("full", cmc=cmc, same_camera=same_camera),
        colocated=((1, 2), (3, 3)),
        colocated_mixed=colocated_mixed,
    )
    results = evaluated(features, protocol, rules=("mixer",), calibration=None)
    found = audit(features, protocol, results, queries=1000)
    assert found.ok, str(found)
    assert all(row.equal == row.queries for row in found.rows)


def sysu_like(seed=0):
    rng = np.random.default_rng(seed)
    keys = [
        (cam, identity, number) for cam in range(1, 7) for identity in (1, 2, 3, 4)
        for number in (1, 2, 3)
    ]  # fmt: skip
    return FeatureSet(
        erased=rng.normal(size=(len(keys), 6)),
        related=rng.normal(size=(len(keys), 6)),
        ids=[identity for _, identity, _ in keys],
        cams=[cam for cam, _, _ in keys],
        modality=[int(cam in (3, 6)) for cam, _, _ in keys],
        paths=[f"cam{cam}/{identity:04d}/{number:04d}.jpg" for cam, identity, number in keys],
    )


@pytest.mark.parametrize("name", ["sysu/all/single@ye", "sysu/indoor/single@ye"])
def test_sound_results_of_several_draws_pass(name):
    features = sysu_like()
    results = evaluated(features, name, rules=("erased", "mixer-shuffled"), trials=3)
    found = audit(features, name, results, queries=1000)
    assert found.ok, str(found)
    assert all(row.equal == row.queries for row in found.rows)


def test_a_sample_is_seeded_and_as_large_as_asked():
    features = make()
    results = evaluated(features, rules=("erased",), query="infrared", calibration=None)
    found = audit(features, "full", results, queries=5, seed=3)
    assert found.ok
    assert not found.complete
    assert all(row.queries == 5 for row in found.rows)
    assert found == audit(features, "full", results, queries=5, seed=3)
    assert "a sample (seed 3)" in str(found)
    assert "30 lists" in str(found)


def sabotage(results, key, query, change):
    at, ap = results.per_query_ap[key]
    ap = ap.copy()
    ap[query] += change
    return dataclasses.replace(results, per_query_ap=results.per_query_ap | {key: (at, ap)})


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("calibration", EVERY)
@pytest.mark.parametrize("change", [1e-3, -1e-3, np.nan])
def test_one_wrong_precision_is_found(setting, calibration, change):
    features = make(40)
    results = evaluated(features, rules=("mixer",), query="infrared")
    key = (setting, "mixer", "infrared", calibration)
    query = int(np.flatnonzero(~np.isnan(results.per_query_ap[key][1]))[-1])
    found = audit(features, "full", sabotage(results, key, query, change), queries=1000)
    assert not found.ok
    (bad,) = [row for row in found.rows if not row.ok]
    assert bad.key == key
    assert bad.wrong == 1
    words = f"wrong: {setting}, mixer, infrared, {calibration or 'none'}: 1 of {bad.queries} lists"
    assert words in str(found)
    assert str(found).startswith("audit FAILED")


@pytest.mark.parametrize(
    "name", ["r1", "r5", "r10", "r20", "mAP", "mINP", "queries_valid", "mean_positives"]
)
def test_a_wrong_mean_is_found_when_every_query_is_recomputed(name):
    features = make(40)
    results = evaluated(features, rules=("erased",), query="infrared", calibration=None)
    rows = list(results.rows)
    rows[2] = dataclasses.replace(rows[2], **{name: getattr(rows[2], name) + 1e-3})
    changed = dataclasses.replace(results, rows=rows)
    found = audit(features, "full", changed, queries=1000)
    assert [row.figures_wrong for row in found.rows if not row.ok] == [(name,)]
    assert name in str(found)
    assert audit(features, "full", changed, queries=3).ok  # a sample says nothing of means


@pytest.mark.parametrize("calibration", EVERY)
def test_wrong_scores_are_found(monkeypatch, calibration):
    features = make(40)
    results = evaluated(
        features, rules=("mixer",), query="infrared", calibration=calibration, settings=("mix",)
    )
    assert audit(features, "full", results).ok
    true = audit_module.scores

    def wrong(*args, **kwargs):
        made = true(*args, **kwargs)
        made[0, 5] += 1e-3
        return made

    monkeypatch.setattr(audit_module, "scores", wrong)
    found = audit(features, "full", results)
    assert not found.ok
    assert all(row.scores_wrong == 1 for row in found.rows)
    assert "1 scores" in str(found)


def test_near_ties_are_told_from_errors():
    """Two items whose scores differ by less than rounding may come in either order, others not."""
    angle = np.array([0.0, 0.5, 0.5 + 1e-8, 1.0, 1.2])
    features = FeatureSet(
        erased=np.stack([np.cos(angle), np.sin(angle)], axis=1),
        related=None,
        ids=[1, 2, 1, 2, 1],
        cams=[1, 2, 2, 2, 2],
        modality=[1, 0, 0, 0, 0],
    )
    given = {"settings": ("cross",), "rules": ("erased",)}
    results = evaluate(features, "full", **given)
    key = ("cross", "erased", "infrared", None)
    values = [(1 + 2 / 4) / 2, (1 / 2 + 2 / 4) / 2]  # the near tie for and against the query
    assert any(results.per_query_ap[key][1][0] == pytest.approx(value) for value in values)
    verdicts = []
    for value in (*values, (1 / 3 + 2 / 4) / 2):  # last: items far apart exchanged
        changed = sabotage(results, key, 0, value - results.per_query_ap[key][1][0])
        (row,) = audit(features, "full", changed, queries=1).rows
        verdicts.append((row.equal, row.near_ties, row.wrong))
    assert sorted(verdicts[:2]) == [(0, 1, 0), (1, 0, 0)]
    assert verdicts[2] == (0, 0, 1)


def test_what_cannot_be_audited_is_refused():
    features = make(30)
    results = evaluated(features, rules=("erased",), query="infrared", calibration=None)
    with pytest.raises(MixERValueError, match="queries=0"):
        audit(features, "full", results, queries=0)
    with pytest.raises(MixERValueError, match="of protocol 'full', the audit was given 'regdb/1'"):
        audit(features, "regdb/1", results)
    with pytest.raises(MixERValueError, match=r"not of the .* queries that 'full' finds"):
        audit(features[2:], "full", results)
    with pytest.raises(MixERValueError, match="no row"):
        audit(features, "full", dataclasses.replace(results, rows=[]))


SUMS = [n for n, rule in RULES.items() if not (rule.standardised or "shuffled" in rule.sources)]


# Those of a standardised rule: tests/unit/features/test_cohort.py.
@pytest.mark.parametrize("rule", SUMS)
@pytest.mark.parametrize("calibration", EVERY)
def test_literal_scores_are_the_definitions(rule, calibration):
    """Pair by pair, in plain Python."""
    features = make(24)
    gallery, queries = np.arange(4, 24), np.arange(0, 8)
    made, slack = literal_scores(features, queries, gallery, RULES[rule], calibration)
    modality = features.modality.tolist()
    vectors = {}
    for source, place in (("erased", 0), ("related", 1)):
        unit = [v / np.linalg.norm(v) for v in getattr(features, source).numpy().astype(float)]
        if calibration == "center":
            for side in (0, 1):
                mean = np.mean([unit[g] for g in gallery if modality[g] == side], axis=0)
                unit = [v - mean if modality[i] == side else v for i, v in enumerate(unit)]
            unit = [v / np.linalg.norm(v) for v in unit]
        vectors[place] = unit
    for i, q in enumerate(queries):
        raw = {}
        for g in gallery:
            weights = RULES[rule].weights(modality[q], modality[g])
            raw[g] = sum(w * (vectors[k][q] @ vectors[k][g]) for k, w in enumerate(weights))
        for j, g in enumerate(gallery):
            value = raw[g]
            if calibration == "znorm":
                others = [raw[x] for x in gallery if x != q and modality[x] == modality[g]]
                value = (value - np.mean(others)) / np.std(others)
            assert made[i, j] == pytest.approx(value, abs=1e-12)
    assert (slack >= 0).all()
    assert np.median(slack) < 1e-4


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1)), min_size=1),
    st.sampled_from(["any-id", "same-id", "keep"]),
    st.booleans(),
)
def test_literal_lists_are_those_of_the_tables(images, same_camera, colocated_mixed):
    ids, cams, modality = (np.array(values) for values in zip(*images, strict=True))
    features = FeatureSet(np.ones((len(ids), 1)), None, ids, cams, modality)
    colocated = ((1, 2), (3, 3))
    protocol = dataclasses.replace(
        get_protocol("full", same_camera=same_camera),
        colocated=colocated,
        colocated_mixed=colocated_mixed,
    )
    labels = read_labels_of(features)
    groups = find_groups(modality, cams)
    for setting in SETTINGS:
        tables = view(setting, groups, colocated, colocated_mixed, same_camera)
        for q in range(len(ids)):
            for g in range(len(ids)):
                table = tables.positive if ids[q] == ids[g] else tables.listed
                expected = bool(table[groups.of_row[q], groups.of_row[g]]) and q != g
                assert is_listed(setting, q, g, labels, protocol) == expected


@given(st.lists(st.integers(1, 4), max_size=12), st.booleans())
def test_measures_of_a_list(ranked, dedup):
    found = measure(ranked, 1, dedup)
    matches = [identity == 1 for identity in ranked]
    if not any(matches):
        assert found is None
        return
    assert found.ap == pytest.approx(bruteforce.average_precision(matches), abs=1e-15)
    assert found.inp == pytest.approx(bruteforce.inverse_negative_penalty(matches), abs=1e-15)
    assert found.first == bruteforce.first_match(range(len(ranked)), ranked, 1, dedup)
    assert found.positives == sum(matches)


def test_rounding_covers_wide_features():
    """Float32 scores of wide features lie within a fifth of what the audit grants."""
    rng = np.random.default_rng(0)
    count, width = 400, 4096
    features = FeatureSet(
        erased=rng.normal(size=(count, width)) + rng.normal(size=width),
        related=None,
        ids=np.arange(count) // 4,
        cams=np.arange(count) % 2,
        modality=np.arange(count) % 2,
    )
    rows = np.arange(count)
    for calibration in EVERY:
        made, slack = literal_scores(features, rows[:40], rows, RULES["erased"], calibration)
        own = torch.arange(40)
        given = audit_module.scores(
            features[rows[:40]], features, "erased", calibration, self_index=own
        )
        assert (np.abs(given.numpy() - made) <= slack / 5).all()
