"""Where public evaluators disagree: our answer on examples that can be checked by hand.

The public evaluators meant are those of MPANet, SAAI and IDKL ("SYSU, ignite"), DDAG and SGIEL
("SYSU, script"), DEEN ("LLCM"), torchreid and fast-reid ("Market"), and torchmetrics. Their rules
are restated here where a few lines do; ``test_public_evaluators.py`` runs their code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random

import numpy as np
import pytest
import torch

from mixer_plugin.evaluation import SETTINGS, evaluate, get_protocol
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores

DEDUP = get_protocol("full", cmc="dedup")
SYSU = dataclasses.replace(DEDUP, colocated=((2, 3),))


def asked(query, items, cosines=None):
    """Row 0, infrared, asks; the others are visible and have the given cosines with it.

    ``query`` and ``items`` are (identity, camera); without cosines the items stand in rank order.
    """
    if cosines is None:
        cosines = np.linspace(0.9, 0.1, len(items))
    angles = np.arccos([1.0, *cosines])
    ids, cams = zip(query, *items, strict=True)
    erased = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return FeatureSet(erased, None, ids, cams, [1] + [0] * len(items))


def found(features, setting, protocol="full", **options):
    results = evaluate(features, protocol, settings=(setting,), rules=("erased",), **options)
    return results.rows[0]


def curve(row):
    return [row.r1, row.r5, row.r10, row.r20]


def average_precision(matches):
    hits = np.flatnonzero(matches)
    return np.mean(np.arange(1, len(hits) + 1) / (hits + 1))


def digest(features):
    tensors = (features.erased, features.related, features.ids, features.cams, features.modality)
    joined = b"".join(tensor.numpy().tobytes() for tensor in tensors if tensor is not None)
    return hashlib.sha256(joined).hexdigest()


def random_set(seed, count=24, identities=4, cameras=3, width=6):
    rng = np.random.default_rng(seed)
    modality = rng.integers(0, 2, count)
    modality[:2] = 1, 0
    return FeatureSet(
        rng.normal(size=(count, width)),
        None,
        rng.integers(1, identities + 1, count),
        rng.integers(1, cameras + 1, count) + 3 * modality,
        modality,
    )


def test_1_each_identity_once_or_every_item():
    """Ranked identities 7 7 1 8 9, the query's is 1.

    SYSU and LLCM code: CMC [0, 1, 1, 1], each identity counts once; Market and RegDB code:
    [0, 0, 1, 1]. Ours is what the protocol says; AP (1/3) and R1 are the same. Three more
    identities in front bring the difference to rank 5.
    """
    once = get_protocol("full", cmc="dedup")
    every = get_protocol("full", cmc="standard")
    example = [(7, 1), (7, 1), (1, 1), (8, 1), (9, 1)]
    for protocol in (once, every):
        row = found(asked((1, 6), example), "cross", protocol)
        assert row.mAP == pytest.approx(1 / 3)
        assert curve(row) == [0, 1, 1, 1]
    further = asked((1, 6), [(20, 1), (21, 1), (22, 1), *example])
    assert curve(found(further, "cross", once)) == [0, 1, 1, 1]
    assert curve(found(further, "cross", every)) == [0, 0, 1, 1]


def test_2_cameras_at_one_place():
    """Query of identity 1 in camera 3; ranked (1, camera 2), (7, camera 1), (1, camera 4).

    SYSU code drops camera 2, whoever it shows: AP .5, R1 0. LLCM, RegDB and Market code does not:
    AP .8333, R1 1. Ours: the SYSU protocols drop it, ``full`` does not know of it.
    """
    features = asked((1, 3), [(1, 2), (7, 1), (1, 4)])
    for protocol in (SYSU, "sysu/all/single@ye"):
        trials = {} if protocol is SYSU else {"trials": 1}
        row = found(features, "cross", protocol, **trials)
        assert (row.mAP, row.r1) == (0.5, 0)
    row = found(features, "cross")
    assert (row.mAP, row.r1) == (pytest.approx(5 / 6), 1)


def test_3_three_rules_for_the_query_s_camera():
    """Query of identity 1 in camera 1; ranked (7, camera 1), (1, camera 2), (1, camera 1).

    AP is 1 with SYSU, ignite (its camera goes, any identity), .5833 with SYSU, script (nothing
    goes) and .5 with Market and LLCM (its identity in its camera goes). Ours: three settings.
    """
    features = asked((1, 1), [(7, 1), (1, 2), (1, 1)])
    expected = {"mix-cam": 1.0, "mix": (1 / 2 + 2 / 3) / 2, "mix-cam-id": 1 / 2}
    for setting, ap in expected.items():
        assert found(features, setting).mAP == pytest.approx(ap)


def mixed_gallery():
    """Features that tell images apart but no identity: without itself nobody hits first."""
    ids = np.tile(np.arange(1, 7), 3)
    cams = np.repeat([3, 6, 2], 6)
    angles = np.concatenate([np.linspace(0, 1, 6), np.linspace(2, 3, 6), np.linspace(0, 1, 6)])
    angles[-6:] = angles[-6:][::-1] + 0.05
    erased = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return FeatureSet(erased, None, ids, cams, (cams != 2).astype(int))


def test_4_nobody_finds_himself_in_a_mixed_gallery():
    """An official SYSU evaluator on a mixed gallery finds the query itself, first.

    The ignite family calls a query's camera 3 camera 2 and drops that: camera 3 stays, with the
    query. The script family drops camera 2 for queries in camera 3 and nothing else: R1 is 1 for
    everybody (at SYSU-MM01's size R1 98.05 and 100.00). Ours removes the query by its row.
    """
    features = mixed_gallery()
    matrix = scores(features, features, "erased").numpy()
    cams = features.cams.numpy()

    def first(query, listed):
        return np.argmax(np.where(listed, matrix[query], -np.inf))

    for query in np.flatnonzero(cams == 3):
        assert first(query, cams != 2) == query  # ignite, and script
    for query in np.flatnonzero(cams == 6):
        assert first(query, cams > 0) == query  # script
    for setting in ("mix", "mix-cam-id"):
        row = found(features, setting)
        assert (row.r1, row.queries_valid) == (0, 12)
        # 18 images, of which one is the query; its identity has two others, one in its modality.
        assert row.mean_positives == 2
    assert found(features, "mix-id").mean_positives == 1


def test_4_a_copy_of_the_query_under_another_row_counts():
    """Self-removal is by row: not by score, camera, identity or path."""
    features = mixed_gallery()
    double = FeatureSet.concatenate([features, features[features.modality == 1]])
    assert found(double, "mix").r1 == 1
    # In mix-cam-id the copy goes with the query's own camera, as every image of the query's there.
    assert found(double, "mix-cam-id").r1 == 0


def test_5_a_camera_whose_removal_takes_an_identity_along():
    """Queries in cameras 3 and 6; gallery (1, camera 1), (7, camera 2), (8, camera 1).

    SYSU, ignite, adds match vectors as long as the identities left (2 and 3 here): ValueError; and
    with a single one left NumPy stretches it: CMC [1, 2]. Ours is a share of the queries.
    """
    stretched = np.zeros(2)
    stretched += np.array([1.0])
    assert np.cumsum(stretched).tolist() == [1, 2]
    one = asked((1, 3), [(1, 1), (7, 2)])
    assert curve(found(one, "cross", SYSU)) == [1, 1, 1, 1]
    one = asked((1, 3), [(1, 1), (7, 2), (8, 1)])
    two = FeatureSet.concatenate([one, asked((1, 6), [])])
    row = found(two, "cross", SYSU)
    assert (row.queries_valid, *curve(row)) == (2, 1, 1, 1, 1)


@pytest.mark.parametrize("protocol", [SYSU, get_protocol("full")], ids=["dedup", "standard"])
@pytest.mark.parametrize("identities", [1, 2, 9])
def test_5_curves_rise_and_end_at_one_at_most(protocol, identities):
    """Also in galleries of fewer than 20 items, and of one identity only."""
    curves = 0
    for seed in range(12):
        features = random_set(seed, count=4 + seed, identities=identities)
        for row in evaluate(features, protocol, rules=("erased",), query="both").rows:
            values = [0, *curve(row), 1]
            if row.queries_valid:
                assert values == sorted(values)
                curves += 1
                if identities == 1:
                    assert curve(row) == [1, 1, 1, 1]
                    assert row.mAP == pytest.approx(1, abs=1e-12)
            else:
                assert all(map(math.isnan, curve(row)))
    assert curves > 50


def test_6_short_lists_keep_the_last_value():
    """Ranked (7), (1) and a third item that is removed: the list ends at rank 2.

    The Market evaluators' Cython versions read on in a buffer: CMC [0, 1, 0], where their Python
    versions have [0, 1]. Ours: the curve keeps its last value.
    """
    features = asked((1, 6), [(7, 1), (1, 2), (1, 6)])
    row = found(features, "mix-cam-id")
    assert (row.mAP, row.mean_positives) == (0.5, 1)
    assert curve(row) == [0, 1, 1, 1]


def test_6_no_query_sees_another_one_s_list():
    """Buffers that are filled anew per query but never cleared would carry over."""
    features = random_set(3, count=40, identities=6)
    infrared = np.flatnonzero(features.modality.numpy() == 1)
    together = evaluate(features, "full", rules=("erased",), settings=("cross",))
    rows, ap = together.per_query_ap["cross", "erased", "infrared", None]
    assert rows.tolist() == infrared.tolist()
    visible = np.flatnonzero(features.modality.numpy() == 0)
    for row, expected in zip(infrared.tolist(), ap.tolist(), strict=True):
        alone = found(features[[row, *visible.tolist()]], "cross")
        assert alone.mAP == pytest.approx(expected, abs=1e-12, nan_ok=True)


SIGNED = ((1, 0.9), (7, 0.5), (1, 0.2), (8, -0.1), (1, -0.3))  # identity, cosine


def test_7_a_positive_below_zero_is_a_positive():
    """Cosines .9 .5 .2 -.1 -.3, relevant 1 0 1 0 1: AP .7556 by definition.

    torchmetrics counts relevant items with a score of at most 0 as irrelevant: .8333.
    """
    features = asked((1, 6), [(i, 1) for i, _ in SIGNED], [cosine for _, cosine in SIGNED])
    row = found(features, "cross")
    assert row.mAP == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert row.mAP == pytest.approx(0.7556, abs=1e-4)
    assert average_precision([1, 0, 1]) == pytest.approx(0.8333, abs=1e-4)


@pytest.mark.slow  # its import is
def test_7_torchmetrics_needs_scores_above_zero():
    """So as a cross-check it is right with (1 + cosine) / 2."""
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    relevant = torch.tensor([identity == 1 for identity, _ in SIGNED])
    cosines = torch.tensor([cosine for _, cosine in SIGNED])
    as_is = retrieval.retrieval_average_precision(cosines, relevant)
    shifted = retrieval.retrieval_average_precision((1 + cosines) / 2, relevant)
    assert float(as_is) == pytest.approx(0.8333, abs=1e-4)
    assert float(shifted) == pytest.approx(0.7556, abs=1e-4)


@pytest.mark.parametrize("place", [0, 120, 299])
def test_8_ties_rank_by_row_and_both_bounds_are_reported(place):
    """300 equal scores, one of them the positive's.

    Public code sorts without an order for ties: with the positive at index 0, torch.sort put it at
    rank 292, torch.topk at 96; a metric with thresholds says 1/300. Ours: the row order of the
    features, and the best and worst that any order could give.
    """
    items = [(100 + k, 1) for k in range(300)]
    items[place] = (1, 1)
    row = found(asked((1, 6), items, np.zeros(300)), "cross")
    assert row.mAP == pytest.approx(1 / (place + 1), abs=1e-12)
    assert row.mAP_optimistic == 1
    assert row.mAP_pessimistic == pytest.approx(1 / 300, abs=1e-12)


def test_8_scores_are_never_held_in_half_precision():
    """Two cosines 2e-5 apart are one number in float16, where the positive would be second."""
    features = asked((1, 6), [(7, 1), (1, 1)], [0.70001, 0.70003])
    cosines = scores(features[:1], features[1:], "erased")
    half = cosines.half()
    assert half[0, 0] == half[0, 1]
    row = found(features, "cross")
    assert row.mAP == row.mAP_optimistic == row.mAP_pessimistic == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert found(features, "cross").mAP == 1


def test_9_distance_and_cosine_rank_alike_but_for_rounding():
    """SYSU, ignite, ranks by |x|^2 + |y|^2 - 2xy: mAP differs in the eighth digit only.

    (61.978186 and 61.978188 at SYSU-MM01's size.) Its sums of magnitude 2 tie more often.
    """
    features = random_set(0, count=1200, identities=40, width=32)
    erased = torch.nn.functional.normalize(features.erased)
    asking, listed = features.modality == 1, features.modality == 0
    query, gallery = erased[asking], erased[listed]
    squares = query.square().sum(1, keepdim=True) + gallery.square().sum(1)
    distance = squares - 2 * (query @ gallery.T)
    match = features.ids[asking][:, None] == features.ids[listed]
    order = distance.argsort(dim=1, stable=True)
    by_distance = np.mean([average_precision(line) for line in match.gather(1, order).numpy()])
    assert found(features, "cross").mAP == pytest.approx(by_distance, abs=1e-5)

    def tied(matrix):
        return int((matrix.sort(dim=1).values.diff(dim=1) == 0).sum())

    assert tied(distance) > tied(query @ gallery.T)


def one_of_each(ids, rng):
    """R1 by the rule for CUHK03: mean of ten draws of one image per identity, ranked list in."""
    hits = []
    for _ in range(10):
        drawn = [rng.choice(np.flatnonzero(ids == name)) for name in np.unique(ids)]
        hits.append(ids[min(drawn)] == 1)
    return np.mean(hits)


def test_10_nothing_is_drawn_while_counting():
    """Ranked identities 1 7 1 8 7 1: R1 by CUHK03's rule in Market code hangs on the global state.

    Three seeds gave .4, .3 and .2 on one query of six items. Ours draws nothing: R1 is 1, every
    time, and no global state of random numbers moves.
    """
    ids = np.array([1, 7, 1, 8, 7, 1])
    drawn = {one_of_each(ids, np.random.default_rng(seed)) for seed in range(8)}
    assert len(drawn) > 1
    features = asked((1, 6), [(name, 1) for name in ids.tolist()])
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first, second = (evaluate(features, "full", rules=("erased",)) for _ in range(2))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after
    assert first.to_json() == second.to_json()
    assert first.get("cross", "erased").r1 == 1


def test_callers_arrays_are_never_rewritten():
    """SYSU, ignite, turns camera 3 into 2 in the caller's array: the next call sees another set."""
    cams = np.array([3, 6, 3, 1, 2, 4])
    ids = np.array([1, 2, 2, 1, 1, 2])
    erased = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    given = (erased.copy(), cams.copy(), ids.copy())
    features = FeatureSet(erased, None, ids, cams, [1, 1, 1, 0, 0, 0])
    before = digest(features)
    options = {"calibration": (None, "znorm", "center"), "rules": ("erased",), "query": "both"}
    first = evaluate(features, SYSU, settings=SETTINGS, **options)
    assert digest(features) == before
    for array, copy in zip((erased, cams, ids), given, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert evaluate(features, SYSU, settings=SETTINGS, **options).to_json() == first.to_json()
