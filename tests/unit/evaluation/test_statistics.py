"""Intervals, paired tests and Holm's correction, against loops and by simulation."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import evaluate, get_protocol, statistics
from mixer_plugin.evaluation.analysis.comparison import compare
from mixer_plugin.evaluation.statistics import cluster_bootstrap, holm, paired_bootstrap
from mixer_plugin.features import FeatureSet


def clustered(rng, identities=30, shift=0.0):
    """Differences of an identity's queries lie together; identities have 2 to 12 queries."""
    clusters = np.repeat(np.arange(identities), rng.integers(2, 13, identities))
    b = rng.uniform(size=len(clusters))
    a = b + shift + rng.normal(size=identities)[clusters] + 0.5 * rng.normal(size=len(b))
    return a, b, clusters


def bruteforce(a, b, clusters, resamples, level, seed):
    """Query by query, with copies of the identities drawn."""
    names = sorted(set(clusters.tolist()))
    generator = np.random.default_rng(seed)
    means = []
    for times in generator.multinomial(len(names), [1 / len(names)] * len(names), size=resamples):
        drawn = []
        for name, count in zip(names, times, strict=True):
            for _ in range(count):
                drawn += [a[q] - b[q] for q in range(len(a)) if clusters[q] == name]
        means.append(sum(drawn) / len(drawn))
    found = sum(a - b) / len(a)
    extreme = sum(abs(mean - found) >= abs(found) for mean in means)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return found, low, high, (1 + extreme) / (1 + resamples)


def test_paired_bootstrap_is_the_loop_over_its_draws():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.3, 1.0):
        a, b, clusters = clustered(rng, 9, shift)
        found = paired_bootstrap(a, b, clusters, resamples=200, level=0.9, seed=5)
        expected = bruteforce(a, b, clusters, 200, 0.9, 5)
        assert (found.mean, found.low, found.high, found.p) == pytest.approx(expected, abs=1e-12)
        assert (found.queries, found.identities) == (len(a), 9)


def test_coverage_and_p_values_by_simulation():
    rng = np.random.default_rng(1)
    runs = [paired_bootstrap(*clustered(rng), resamples=300, seed=run) for run in range(400)]
    covered = np.mean([run.low <= 0 <= run.high for run in runs])
    assert 0.90 <= covered <= 0.97  # the percentile interval is a little short with 30 clusters
    p = np.array([run.p for run in runs])
    for level in (0.1, 0.25, 0.5, 0.75):
        assert np.mean(p <= level) == pytest.approx(level, abs=0.075)
    assert 0.02 <= np.mean(p <= 0.05) <= 0.10
    # Queries taken for independent samples find differences that are not there.
    naive = [
        paired_bootstrap(a, b, np.arange(len(a)), resamples=300).p
        for a, b, _ in (clustered(rng) for _ in range(200))
    ]
    assert np.mean(np.array(naive) <= 0.05) > 0.25


def test_a_difference_is_found():
    a, b, clusters = clustered(np.random.default_rng(2), 60, shift=1.0)
    found = paired_bootstrap(a, b, clusters, resamples=999)
    assert 0 < found.low < found.mean < found.high
    assert found.p == 1 / 1000  # never 0


def test_identical_systems_differ_by_exactly_nothing():
    a, _, clusters = clustered(np.random.default_rng(3))
    found = paired_bootstrap(a, a, clusters, resamples=100)
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_swapping_the_systems_swaps_the_signs():
    a, b, clusters = clustered(np.random.default_rng(4), shift=0.2)
    one = paired_bootstrap(a, b, clusters, resamples=500)
    two = paired_bootstrap(b, a, clusters, resamples=500)
    assert (one.mean, one.p) == (-two.mean, two.p)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low), abs=1e-12)


def test_the_order_of_the_queries_does_not_matter():
    rng = np.random.default_rng(5)
    a, b, clusters = clustered(rng, shift=0.2)
    order = rng.permutation(len(a))
    one = paired_bootstrap(a, b, clusters, resamples=500)
    two = paired_bootstrap(a[order], b[order], clusters[order], resamples=500)
    assert (one.mean, one.low, one.high) == pytest.approx((two.mean, two.low, two.high), abs=1e-12)
    assert one.p == two.p
    assert one == paired_bootstrap(a, b, clusters, resamples=500)
    assert one != paired_bootstrap(a, b, clusters, resamples=500, seed=6)


def test_equal_differences_count_as_equal_whatever_the_rounding():
    # Resampled means are multiples of 1/4, and many exactly as far from 1/2 as 0 is.
    rng = np.random.default_rng(6)
    steps = np.array([1.0, 1, 1, -1, 1, -1, 1, 1])
    exact = paired_bootstrap(steps, np.zeros(8), np.arange(8), resamples=500)
    for _ in range(20):
        b = rng.uniform(size=8)
        found = paired_bootstrap(b + 0.1 * steps, b, np.arange(8), resamples=500)
        assert found.p == exact.p


def test_what_cannot_be_said_is_nan():
    a, b, clusters = clustered(np.random.default_rng(7))
    gaps = np.where(np.arange(len(a)) % 3 == 0, np.nan, a)
    kept = ~np.isnan(gaps)
    found = paired_bootstrap(gaps, b, clusters, resamples=50)
    assert found == paired_bootstrap(a[kept], b[kept], clusters[kept], resamples=50)
    assert found == replace(
        paired_bootstrap(b, gaps, clusters, resamples=50),
        mean=found.mean,
        low=found.low,
        high=found.high,
    )
    alone = paired_bootstrap(a, b, np.zeros(len(a), int))
    assert alone.mean == pytest.approx((a - b).mean())
    assert all(map(math.isnan, (alone.low, alone.high, alone.p)))
    none = paired_bootstrap(np.full(3, np.nan), np.ones(3), np.arange(3))
    assert math.isnan(none.mean)
    assert (none.queries, none.identities) == (0, 0)


def test_memory_is_bounded_and_blocks_do_not_matter(monkeypatch):
    a, b, clusters = clustered(np.random.default_rng(8), 200)

    def both():
        found = paired_bootstrap(a, b, clusters, resamples=500)
        return [found.low, found.high, found.p, *cluster_bootstrap(a, clusters)]

    whole, sizes, default_rng = both(), [], np.random.default_rng

    class Generator:
        def __init__(self, seed):
            self.own = default_rng(seed)

        def multinomial(self, n, share, size):
            sizes.append(size * len(share))
            return self.own.multinomial(n, share, size=size)

    monkeypatch.setattr(statistics, "_BLOCK", 2000)
    monkeypatch.setattr(np.random, "default_rng", Generator)
    assert both() == pytest.approx(whole, abs=1e-12)
    assert max(sizes) == 2000


def test_the_interval_of_one_system_is_the_formula():
    values, _, clusters = clustered(np.random.default_rng(9))
    names, index = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index).astype(float)
    draws = np.random.default_rng(statistics.SEED).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=1000
    )
    expected = np.quantile((draws @ sums) / (draws @ counts), [(1 - 0.95) / 2, 1 - (1 - 0.95) / 2])
    assert cluster_bootstrap(values, clusters) == tuple(expected.tolist())


def literal_holm(values):
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, largest = [0.0] * len(values), 0.0
    for k, i in enumerate(order):
        largest = max(largest, (len(values) - k) * values[i])
        adjusted[i] = min(1.0, largest)
    return adjusted


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    rng = np.random.default_rng(10)
    for count in range(1, 9):
        values = rng.uniform(size=count).round(1) ** 2  # with equal ones
        assert holm(values) == pytest.approx(literal_holm(values.tolist()))
        assert all(p <= adjusted <= 1 for p, adjusted in zip(values, holm(values), strict=True))
    gap = holm([0.01, math.nan, 0.04])
    assert math.isnan(gap[1])
    assert [gap[0], gap[2]] == holm([0.01, 0.04])
    with pytest.raises(MixERValueError, match=r"must lie in \[0, 1\]"):
        holm([0.5, 1.2])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones(3), np.ones(4), np.ones(3)), {}, r"got shapes \(3,\), \(4,\)"),
        ((np.ones((3, 1)),) * 3, {}, "one entry per query"),
        ((np.ones(3),) * 3, {"resamples": 0}, "at least 1"),
        ((np.ones(3),) * 3, {"level": 1.0}, "between 0 and 1"),
    ],
)
def test_wrong_arguments_are_explained(arguments, options, message):
    with pytest.raises(MixERValueError, match=message):
        paired_bootstrap(*arguments, **options)


def make(seed=0, count=120, noise=1.0):
    rng = np.random.default_rng(seed)
    ids = np.arange(count) // 2 % 15 + 1
    modality = np.arange(count) % 2
    codes = np.random.default_rng(99).normal(size=(16, 8))
    return FeatureSet(
        codes[ids] + noise * rng.normal(size=(count, 8)),
        codes[ids] + noise * rng.normal(size=(count, 8)),
        ids,
        np.arange(count) // 30 + 1 + 4 * modality,
        modality,
    )


@pytest.fixture(scope="module")
def two():
    settings = ("cross", "mix", "uni")
    return [evaluate(make(noise=n), "full", settings=settings, query="both") for n in (0.8, 1.6)]


def test_compare_is_the_paired_bootstrap_of_every_setting(two):
    features = make()
    found = compare(*two, rule_a="mixer", rule_b="mixer", ids=features.ids, resamples=200, seed=3)
    assert (found.a, found.b) == ("mixer", "mixer")
    assert len(found.rows) == 6
    p_values = []
    for row in found.rows:
        key = (row.setting, "mixer", row.query, None)
        (rows, a), (_, b) = (results.per_query_ap[key] for results in two)
        clusters = features.ids.numpy()[rows]
        expected = paired_bootstrap(a, b, clusters, resamples=200, seed=3)
        assert row.difference == expected
        left, right = (r.get(row.setting, "mixer", query=row.query).mAP for r in two)
        assert row.difference.mean == pytest.approx(left - right)
        assert row.difference.mean > 0.1
        assert not row.equal
        assert found.get(row.setting, row.query) is row
        p_values.append(row.difference.p)
    assert [row.p_adjusted for row in found.rows] == holm(p_values)
    assert all(row.gain for row in found.rows)
    assert not any(
        row.gain for row in compare(*two[::-1], ids=features.ids, resamples=200, seed=3).rows
    )


def test_compare_pairs_by_query_not_by_place(two):
    ids = make().ids
    turned = {key: (rows[::-1], ap[::-1]) for key, (rows, ap) in two[1].per_query_ap.items()}
    found = compare(two[0], replace(two[1], per_query_ap=turned), ids=ids, resamples=100)
    assert found == compare(*two, ids=ids, resamples=100)


def test_compare_knows_what_is_equal(two):
    features = make()
    found = compare(two[0], two[0], ids=features.ids, resamples=100)  # mixer − erased
    cross = found.get("cross", "infrared")
    assert cross.equal
    assert (cross.difference.mean, cross.difference.p, cross.p_adjusted) == (0, 1, 1)
    assert not found.get("mix", "infrared").equal


def test_forms_of_a_comparison_hold_its_figures(two):
    found = compare(two[0], two[0], ids=make().ids, resamples=100)
    lines = found.to_markdown().splitlines()
    assert len(lines) == 2 + 6
    assert len({line.count("|") for line in lines}) == 1
    assert "mixer − erased" in lines[0]
    row = found.get("mix", "infrared")
    (line,) = [each for each in lines if each.startswith("| mix | infrared |")]
    assert f"{100 * row.difference.mean:+.2f}" in line
    assert f"{100 * row.difference.low:+.2f} to {100 * row.difference.high:+.2f}" in line
    assert "0 (exactly)" in lines[2]
    content = json.loads(found.to_json())
    assert [entry["p_adjusted"] for entry in content["rows"]] == [r.p_adjusted for r in found.rows]
    assert content["rows"][1]["mean"] == found.rows[1].difference.mean


def test_a_setting_without_queries_is_null():
    features = replace(make(), ids=np.arange(120))
    results = evaluate(features, "full", settings=("mix",))
    (row,) = compare(results, results, ids=features.ids).rows
    assert not row.equal
    assert not row.gain
    assert row.difference.queries == 0
    found = compare(results, results, ids=features.ids)
    assert "–" in found.to_markdown()
    assert json.loads(found.to_json())["rows"][0]["mean"] is None


def test_systems_that_were_not_asked_the_same_are_refused(two):
    features = make()
    ids = features.ids
    with pytest.raises(
        MixERValueError, match=r"a holds no row of related; it holds: erased, mixer"
    ):
        compare(*two, rule_a="related", ids=ids)
    with pytest.raises(MixERValueError, match=r"b holds no row of erased \(znorm\)"):
        compare(*two, calibration_b="znorm", ids=ids)
    with pytest.raises(MixERValueError, match="the same settings"):
        compare(two[0], evaluate(features, "full", settings=("mix",)), ids=ids)
    settings = ("cross", "mix", "uni")
    fewer = evaluate(features[:110], "full", settings=settings, query="both")
    with pytest.raises(MixERValueError, match="row 111 only in one of them"):
        compare(two[0], fewer, ids=ids)
    other = replace(get_protocol("full"), id="mine")
    renamed = evaluate(features, other, settings=settings, query="both")
    with pytest.raises(MixERValueError, match="under 'full' with 1 trials, b under 'mine'"):
        compare(two[0], renamed, ids=ids)
    with pytest.raises(MixERValueError, match=r"pass features\.ids"):
        compare(*two, ids=ids[:50])
