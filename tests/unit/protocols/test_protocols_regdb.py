"""RegDB: the counts of a split, and the mean over splits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.evaluation.analysis.split_means import mean_over_splits, student_quantile
from mixer_plugin.features import FeatureSet
from tests.unit.protocols.test_protocols import list_counts


def split_half(identities=206, images=10, seed=0, cams=(1, 2)):
    """Features of a test half: visible images, then infrared ones."""
    rng = np.random.default_rng(seed)
    ids = np.tile(np.repeat(np.arange(identities), images), 2)
    modality = np.repeat([0, 1], identities * images)
    codes = rng.normal(size=(identities, 4))
    return FeatureSet(
        erased=codes[ids] + rng.normal(size=(len(ids), 4)),
        related=rng.normal(size=(len(ids), 4)),
        ids=ids,
        cams=np.asarray(cams)[modality],
        modality=modality,
    )


@pytest.mark.parametrize(
    ("setting", "positives", "items"),
    [
        ("cross", 10, 2060),
        ("mix", 19, 4119),
        ("mix-cam", 10, 2060),
        ("mix-cam-id", 10, 4110),
        ("mix-id", 10, 4110),
        ("uni", 9, 2059),
    ],
)
@pytest.mark.parametrize("modality", [0, 1])
def test_lists_of_the_released_size(setting, positives, items, modality):
    features = split_half()
    protocol = get_protocol("regdb/1")
    (gallery,) = protocol.draws(features)
    assert len(gallery) == 4120
    assert len(protocol.queries(features, modality)) == 2060
    found = list_counts(protocol, features, setting, modality)
    assert [set(count.tolist()) for count in found] == [{positives}, {items}]


def test_counts_are_compared_with_the_release():
    protocol = get_protocol("regdb/10")
    text = protocol.describe(split_half())
    assert "split 10" in text
    assert "(2060 infrared, 2060 visible; 206 identities in all)" in text
    assert "release" not in text
    assert "20 identities (206)" in protocol.describe(split_half(20))
    fewer = protocol.describe(split_half(images=9))
    assert "release: 0 identities with 10 images in each modality (206)" in fewer
    # As many images as released, unevenly spread: one of the first identity is the second's.
    features = split_half()
    ids = features.ids.clone()
    ids[0] = 1
    text = protocol.describe(dataclasses.replace(features, ids=ids))
    assert "release: 204 identities with 10 images in each modality (206)" in text


def test_nothing_is_drawn():
    with pytest.raises(MixERValueError, match="'regdb/2' draws nothing"):
        get_protocol("regdb/2").draws(split_half(3), 10)


def test_one_camera_number_for_both_modalities_is_refused_where_it_matters():
    features = split_half(3, cams=(1, 1))
    protocol = get_protocol("regdb/1")
    protocol.check(features, settings=("cross", "mix", "mix-id", "uni"))
    protocol.check(split_half(3), settings=("mix-cam", "mix-cam-id"))
    for setting in ("mix-cam", "mix-cam-id"):
        with pytest.raises(MixERValueError, match=f"camera 1 is both .* '{setting}' would remove"):
            protocol.check(features, settings=("cross", setting))


def result(split, **options):
    features = split_half(8, 4, seed=split)
    return evaluate(
        features,
        get_protocol(f"regdb/{split}"),
        **{"settings": ("cross", "mix-id"), "query": "both"} | options,
    )


def test_mean_deviation_and_interval():
    splits = (1, 4, 10)
    results = [result(split) for split in splits]
    mean = mean_over_splits(results)
    assert [row.key for row in mean.rows] == [row.key for row in results[0].rows]
    assert len(mean.rows) == 8
    for row in mean.rows:
        each = [next(other for other in one.rows if other.key == row.key) for one in results]
        assert row.protocol == "regdb/mean of 3 splits"
        assert row.trials == 3
        for name in ("r1", "r5", "r10", "r20", "mAP", "mINP", "mAP_optimistic", "gallery_size"):
            values = [getattr(other, name) for other in each]
            assert getattr(row, name) == pytest.approx(sum(values) / 3, abs=1e-12)
        for name in ("r1", "mAP", "mINP"):
            values = [getattr(other, name) for other in each]
            spread = math.sqrt(sum((v - sum(values) / 3) ** 2 for v in values) / 2)
            assert getattr(row, f"{name}_std") == pytest.approx(spread, abs=1e-12)
        half = 4.302652729749462 * row.mAP_std / math.sqrt(3)
        assert row.mAP_ci == pytest.approx((row.mAP - half, row.mAP + half), abs=1e-12)
        assert row.mAP_std > 0
    for line in ("regdb/mean of 3 splits", "1, 4, 10", "Student", "cmc         standard", "keep"):
        assert line in mean.contract
    assert mean.per_query_ap == {}
    assert results[0].rows[0].protocol == "regdb/1"


def test_order_of_splits_and_rows_does_not_matter():
    results = [result(split) for split in (1, 2, 3)]
    swapped = [dataclasses.replace(one, rows=one.rows[::-1]) for one in results[::-1]]
    one, two = mean_over_splits(results), mean_over_splits(swapped)
    for row, same in zip(one.rows, two.rows[::-1], strict=True):
        assert row.key == same.key
        assert row.mAP == pytest.approx(same.mAP, abs=1e-12)
        assert row.mAP_ci == pytest.approx(same.mAP_ci, abs=1e-12)
    assert one.contract == two.contract


def test_a_split_without_a_valid_query_leaves_no_mean():
    results = [result(split) for split in (1, 2)]
    empty = dataclasses.replace(results[1].rows[0], mAP=math.nan)
    rows = [empty, *results[1].rows[1:]]
    mean = mean_over_splits([results[0], dataclasses.replace(results[1], rows=rows)])
    assert math.isnan(mean.rows[0].mAP)
    assert math.isnan(mean.rows[0].mAP_ci[0])
    assert not math.isnan(mean.rows[0].r1)
    assert not math.isnan(mean.rows[1].mAP)


def full_result():
    return evaluate(split_half(8, 4), "full", settings=("cross", "mix-id"), query="both")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [result(1)], "two results or more, got 1"),
        (lambda: [result(1), result(2), result(1)], "Split 1 of RegDB is given twice"),
        (lambda: [result(1), full_result()], "got one of 'full'"),
        (lambda: [mean_over_splits([result(1), result(2)]), result(3)], "got one of 'regdb/mean"),
        (lambda: [result(1), result(2, settings=("cross",))], "one lacks .*'setting': 'mix-id'"),
        (lambda: [result(1), result(2, query="visible")], "one lacks .*'query': 'infrared'"),
        (
            lambda: [
                result(1),
                evaluate(
                    split_half(8, 4),
                    get_protocol("regdb/2", cmc="dedup"),
                    settings=("cross", "mix-id"),
                    query="both",
                ),
            ],
            "different options: 'cmc         standard.*dedup",
        ),
    ],
)
def test_results_that_do_not_belong_together_are_refused(make, message):
    with pytest.raises(MixERValueError, match=message):
        mean_over_splits(make())


@pytest.mark.parametrize(
    ("degrees", "bound"),
    [(1, 12.706204736174694), (2, 4.302652729749462), (9, 2.2621571628540993)],
)
def test_known_quantiles_of_student(degrees, bound):
    assert student_quantile(0.95, degrees) == pytest.approx(bound, rel=1e-9)


def test_quantiles_of_student_equal_scipys():
    stats = pytest.importorskip("scipy.stats")
    for degrees in (*range(1, 31), 99):
        for level in (0.1, 0.5, 0.9, 0.95, 0.999):
            expected = stats.t.ppf((1 + level) / 2, degrees)
            assert student_quantile(level, degrees) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("level", "degrees"), [(0.0, 3), (1.0, 3), (0.95, 0)])
def test_quantiles_out_of_range_are_refused(level, degrees):
    with pytest.raises(MixERValueError, match="level between 0 and 1"):
        student_quantile(level, degrees)
