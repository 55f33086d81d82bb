"""Evaluation: ranks and means by hand, by brute force, and by every way of dividing the work."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import SETTINGS, ResultRow, evaluate, get_protocol
from mixer_plugin.evaluation.ranking.rank import block_rows
from mixer_plugin.evaluation.statistics import cluster_bootstrap
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import similarity
from mixer_plugin.matching.shuffle import shuffle_related, shuffled_rows
from tests import bruteforce
from tests.unit.evaluation.evaluation_cases import make, ranked, row_of

RULES_WITH_ERASED_ACROSS = ("erased", "mixer", "mixer-shuffled")


def assert_close(one, two):
    """Equal rows, but for the rounding of sums taken in another order."""
    assert one.key == two.key
    for field in dataclasses.fields(ResultRow):
        mine, theirs = getattr(one, field.name), getattr(two, field.name)
        if isinstance(mine, (float, tuple)):
            assert mine == pytest.approx(theirs, abs=1e-12, nan_ok=True), field.name
        else:
            assert mine == theirs


def only_query(features):
    assert int((features.modality == 1).sum()) == 1
    return features


def test_deduplicated_and_standard_cmc_by_hand():
    # query of identity 1, ranked identities 7 7 1 8 9
    features = only_query(ranked([1, 7, 7, 1, 8, 9], [6, 1, 2, 1, 2, 1], [1, 0, 0, 0, 0, 0]))
    standard = row_of(features, "cross")
    dedup = row_of(features, "cross", get_protocol("full", cmc="dedup"))
    assert standard.mAP == dedup.mAP == pytest.approx(1 / 3)
    assert (standard.r1, standard.r5) == (dedup.r1, dedup.r5) == (0, 1)
    first = evaluate_first(features, "standard"), evaluate_first(features, "dedup")
    assert first == (3, 2)


def evaluate_first(features, cmc):
    """Rank of the first positive: with n more identities before it, R5 shows where it is."""
    for extra in range(5):
        # Copies of the best negative under new identities push the positive down one by one.
        ids = features.ids.tolist() + list(range(100, 100 + extra))
        more = FeatureSet(
            torch.cat([features.erased, features.erased[1:2].expand(extra, -1)]),
            None,
            ids,
            features.cams.tolist() + [1] * extra,
            features.modality.tolist() + [0] * extra,
        )
        if row_of(more, "cross", get_protocol("full", cmc=cmc)).r5 == 0:
            return 6 - extra
    raise AssertionError("never pushed beyond rank 5")


def test_colocated_cameras_by_hand():
    # query of identity 1 in camera 3; ranked (1, camera 2), (7, camera 1), (1, camera 4)
    features = only_query(ranked([1, 1, 7, 1], [3, 2, 1, 4], [1, 0, 0, 0]))
    sysu = dataclasses.replace(get_protocol("full"), colocated=((2, 3),))
    official = row_of(features, "cross", sysu)
    assert (official.mAP, official.r1, official.mean_positives) == (0.5, 0, 1)
    plain = row_of(features, "cross")
    assert plain.mAP == pytest.approx((1 + 2 / 3) / 2)
    assert (plain.r1, plain.mean_positives) == (1, 2)
    assert plain.mINP == pytest.approx(2 / 3)
    # In the mixed settings it is an option.
    mixed = dataclasses.replace(sysu, colocated_mixed=True)
    for setting in ("mix-cam", "mix-cam-id"):
        assert row_of(features, setting, sysu).mean_positives == 2
        assert row_of(features, setting, mixed).mean_positives == 1
    assert row_of(features, "mix-cam-id", mixed).mAP == pytest.approx(1 / 2)


def test_mix_id_with_a_modality_code_never_hits_first():
    # Features that say modality and identity: every item of the query's modality is nearer than
    # any of the other, and the same identity in the same modality is removed.
    ids = np.repeat(np.arange(6), 4)
    modality = np.tile([0, 0, 1, 1], 6)
    code = np.concatenate([10 * np.eye(2)[modality], np.eye(6)[ids]], axis=1)
    features = FeatureSet(code, None, ids, 1 + modality, modality)
    results = evaluate(features, "full", rules=("erased",), settings=("mix-id", "mix"))
    assert results.get("mix-id", "erased").r1 == 0
    assert results.get("mix", "erased").r1 == 1


def test_the_query_does_not_find_itself():
    # One image per identity and modality, and features that tell images apart: a list that held
    # the query would have it first and R1 = 1; without it the other modality's image is last.
    count = 12
    ids, modality = np.tile(np.arange(count), 2), np.repeat([0, 1], count)
    angles = np.linspace(0, np.pi / 2, count)
    erased = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    erased = np.concatenate([erased, -erased])
    features = FeatureSet(erased, None, ids, 1 + modality, modality)
    row = row_of(features, "mix")
    kept = features.erased @ features.erased.T
    assert (kept[modality == 1].argmax(dim=1).numpy() == np.flatnonzero(modality == 1)).all()
    assert row.r1 == 0
    assert row.mean_positives == 1
    # An exact copy of the query under another row is a positive like any other.
    twice = FeatureSet.concatenate([features, features[features.modality == 1]])
    assert row_of(twice, "mix").r1 == 1


def test_queries_without_a_positive_are_dropped_and_counted():
    features = ranked([1, 2, 1, 3], [6, 6, 1, 1], [1, 1, 0, 0])
    row = row_of(features, "cross")
    assert (row.queries_valid, row.queries_dropped, row.gallery_size) == (1, 1, 2)
    results = evaluate(features, "full", rules=("erased",), settings=("cross",))
    _, ap = results.per_query_ap["cross", "erased", "infrared", None]
    assert ap[0] > 0
    assert math.isnan(ap[1])


def test_nothing_valid_gives_nan_not_a_number():
    features = ranked([1, 2, 3], [6, 1, 1], [1, 0, 0])
    row = row_of(features, "cross")
    assert (row.queries_valid, row.queries_dropped) == (0, 1)
    for value in (row.r1, row.mAP, row.mINP, row.mAP_optimistic, *row.mAP_ci, row.mean_positives):
        assert math.isnan(value)


def test_short_galleries_keep_the_last_value_of_the_curve():
    row = row_of(ranked([1, 2, 1], [6, 1, 1], [1, 0, 0]), "cross")
    assert (row.r1, row.r5, row.r10, row.r20) == (0, 1, 1, 1)


def test_one_identity():
    row = row_of(
        ranked([1, 1, 1], [6, 1, 1], [1, 0, 0]), "cross", get_protocol("full", cmc="dedup")
    )
    assert (row.r1, row.r20, row.mAP, row.mINP) == (1, 1, 1, 1)
    assert row.mAP_ci == (1, 1)


def test_tie_bounds():
    # Query and three equal items, the positive in the middle.
    ones = torch.ones(4, 2)
    features = FeatureSet(ones, None, [1, 7, 1, 8], [6, 1, 1, 1], [1, 0, 0, 0])
    row = row_of(features, "cross")
    assert row.mAP == 0.5
    assert row.mAP_optimistic == 1
    assert row.mAP_pessimistic == pytest.approx(1 / 3)


def test_a_positive_that_another_setting_removes_does_not_change_ranks():
    features = make(60)
    alone = {s: row_of(features, s) for s in SETTINGS}
    together = evaluate(features, "full", rules=("erased",))
    for setting in SETTINGS:
        assert_close(alone[setting], together.get(setting, "erased"))


@pytest.mark.parametrize("calibration", [None, "znorm", "center"])
def test_rules_and_sides_together_equal_each_alone(calibration):
    features = make(90)
    rules = (
        "erased",
        "mixer-calibrated",
        "mixer",
        "related",
        "routed",
        "mixer-shuffled",
        "dev-sum",
        "dev-switch",
    )
    together = evaluate(
        features, "full", rules=rules, query="both", calibration=(None, "znorm", "center")
    )
    assert len(together.rows) == len(SETTINGS) * len(rules) * 2 * 3
    for rule in rules:
        for query in ("infrared", "visible"):
            alone = evaluate(features, "full", rules=(rule,), query=query, calibration=calibration)
            for row in alone.rows:
                same = together.get(row.setting, rule, query=query, calibration=calibration)
                assert_close(row, same)


def test_control_shuffles_the_whole_set_once():
    features = make(90)
    order = shuffled_rows(features.modality)
    assert torch.equal(features.modality[order], features.modality)
    assert sorted(order.tolist()) == list(range(90))
    shuffled = shuffle_related(features)
    assert torch.equal(shuffled.related, features.related[order])
    control = evaluate(features, "full", rules=("mixer-shuffled",))
    expected = evaluate(shuffled, "full", rules=("mixer",))
    for one, two in zip(control.rows, expected.rows, strict=True):
        assert one.mAP == two.mAP
        assert one.mINP == two.mINP


@pytest.mark.parametrize("seed", range(4))
def test_cross_is_bit_equal_under_rules_that_leave_it_alone(seed):
    """Whatever order the related feature puts the positives in that cross does not count."""
    features = make(900, seed=seed, identities=40)
    results = evaluate(features, "full", rules=RULES_WITH_ERASED_ACROSS)
    first = results.per_query_ap["cross", "erased", "infrared", None][1]
    for rule in RULES_WITH_ERASED_ACROSS[1:]:
        assert results.get("cross", rule).mAP == results.get("cross", "erased").mAP
        other = results.per_query_ap["cross", rule, "infrared", None][1]
        np.testing.assert_array_equal(first, other)


def test_threads_change_no_bit_and_blocks_nothing_that_counts(monkeypatch):
    features = make(600, identities=20)
    options = {"query": "both", "calibration": (None, "znorm")}
    whole = evaluate(features, "full", **options)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        parallel = evaluate(features, "full", **options)
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:  # a thread that is new to torch
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(threads)
    assert parallel.to_json() == whole.to_json()
    monkeypatch.setattr(
        "mixer_plugin.evaluation.ranking.rank.block_rows", lambda columns, device: 70
    )
    monkeypatch.setattr("mixer_plugin.evaluation.ranking.rank._PART_ELEMENTS", 6000)
    small = evaluate(features, "full", **options)
    for one, two in zip(whole.rows, small.rows, strict=True):
        for name in ("mAP", "mINP", "r1", "r5"):
            assert getattr(one, name) == pytest.approx(getattr(two, name), abs=1e-12)


def test_long_galleries_are_sorted_in_runs_and_multiplied_in_tiles(monkeypatch):
    """The same numbers whether a camera's items fit into one run and one tile, or not."""
    features = make(700, identities=30)
    whole = evaluate(features, "full", query="both", calibration=(None, "znorm"))
    monkeypatch.setattr("mixer_plugin.evaluation.ranking.rank_block._RUN", 7)
    monkeypatch.setitem(similarity._TILE, "cpu", 64)
    cut = evaluate(features, "full", query="both", calibration=(None, "znorm"))
    for one, two in zip(whole.rows, cut.rows, strict=True):
        assert_close(one, two)


@pytest.mark.parametrize("cmc", ["dedup", "standard"])
def test_what_a_gpu_does_instead_gives_the_same(monkeypatch, cmc):
    """The steps that go another way on a GPU, here on CPU tensors."""
    ties = FeatureSet(
        *(
            torch.randint(-1, 2, (300, 6), generator=torch.Generator().manual_seed(s))
            for s in (0, 1)
        ),
        *(np.arange(300) % 20, np.arange(300) % 3, np.arange(300) % 2),
    )
    for features in (make(300, identities=20), ties):
        protocol = get_protocol("full", cmc=cmc)
        expected = evaluate(features, protocol, query="both", calibration=(None, "znorm"))
        with monkeypatch.context() as patch:
            for module in ("rank_block", "metrics"):
                patch.setattr(
                    f"mixer_plugin.evaluation.ranking.{module}.on_cpu", lambda value: False
                )
            other = evaluate(features, protocol, query="both", calibration=(None, "znorm"))
        assert other.to_json() == expected.to_json()


def test_block_size_is_bounded():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [block_rows(n, cpu) for n in (0, 100, 10**5, 10**8)] == [256, 256, 83, 64]
    assert [block_rows(n, gpu) for n in (0, 100, 10**6, 10**8)] == [512, 512, 67, 64]


def test_callers_arrays_are_not_changed():
    features = make(40)
    before = {
        name: getattr(features, name).clone()
        for name in ("erased", "related", "ids", "cams", "modality")
    }
    evaluate(features, "full", query="both", calibration=(None, "znorm", "center"))
    for name, value in before.items():
        assert torch.equal(value, getattr(features, name))


def test_against_brute_force_on_a_larger_set():
    features = make(160, identities=12)
    erased = torch.nn.functional.normalize(features.erased)
    queries = np.flatnonzero(features.modality.numpy() == 1).tolist()
    lines = (erased[queries] @ erased.T).tolist()
    labels = (features.ids.tolist(), features.cams.tolist(), features.modality.tolist())
    results = evaluate(features, get_protocol("full", cmc="dedup"), rules=("erased",))
    for setting in SETTINGS:
        expected, _ = bruteforce.evaluate_draw(lines, queries, range(160), setting, *labels, True)
        row = results.get(setting, "erased")
        assert {name: getattr(row, name) for name in expected} == pytest.approx(expected, abs=1e-12)


def test_interval_holds_the_mean_and_is_wider_than_that_of_independent_queries():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 20)
    values = rng.normal(size=30)[clusters] + 0.1 * rng.normal(size=600)
    low, high = cluster_bootstrap(values, clusters)
    assert low < values.mean() < high
    # Standard error of a mean of 30 clusters, twice on either side.
    means = np.array([values[clusters == c].mean() for c in range(30)])
    assert high - low == pytest.approx(2 * 1.96 * means.std(ddof=1) / math.sqrt(30), rel=0.15)
    single = cluster_bootstrap(values, np.arange(600))
    assert high - low > 2 * (single[1] - single[0])
    assert cluster_bootstrap(values, clusters) == (low, high)
    with_gaps = np.concatenate([values, [np.nan]])
    assert cluster_bootstrap(with_gaps, np.append(clusters, 99)) == (low, high)
    assert all(map(math.isnan, cluster_bootstrap(np.array([np.nan]), np.array([1]))))


def test_market_queries_are_those_of_the_query_folder():
    erased = [[1, 0], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.99, 0.01]]
    folders = ["query", *["bounding_box_test"] * 4]
    features = FeatureSet(
        *(erased, None, [1, 0, 1, 1, -1], [1, 2, 1, 2, 2], [0] * 5),
        paths=[f"{folder}/{row}.jpg" for row, folder in enumerate(folders)],
    )
    row = row_of(features, "uni", "market1501", query="visible")
    # Junk (row 4) is gone; the distractor (row 1) is first; row 2 is the query's own camera.
    assert (row.queries_valid, row.gallery_size, row.mean_positives) == (1, 3, 1)
    assert (row.mAP, row.r1) == (0.5, 0)
    with pytest.raises(MixERValueError, match=r"pass settings=\('uni',\), query='visible'"):
        row_of(features, "mix", "market1501", query="visible")
