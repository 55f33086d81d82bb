"""``mixer-calibrated``: scores standardised by both images' cosines with the gallery."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.evaluation.audit.audit import audit
from mixer_plugin.evaluation.audit.reference import literal_scores
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import score_norm as cohort_module
from mixer_plugin.matching.normalized import unit_source
from mixer_plugin.matching.rules import RULES
from mixer_plugin.matching.score_norm import find_cohort, standardised
from mixer_plugin.matching.scores import scorer, scores
from tests.literal_cohort import literal, literal_lift, make

RULE = "mixer-calibrated"
ONE = {RULE: RULES[RULE]}


@pytest.mark.parametrize("width", [5, 40])
def test_pairs_across_count_less_in_the_gallery_of_the_next_test(width):
    slope, offset, means = literal_lift(make(34, width=width)[8:], None)
    assert slope == 0.5
    assert offset > 0.3
    assert means["erased"] != means["related"]  # so do the two features


# More items of a modality than dimensions, and fewer: from moments and from products.
@pytest.mark.parametrize("width", [5, 40])
@pytest.mark.parametrize("calibration", [None, "znorm", "center"])
@pytest.mark.parametrize("held", ["both", "visible", "infrared"])
def test_scores_are_the_definition(width, calibration, held):
    images = make(34, width=width)
    gallery = images[8:]
    if held != "both":
        gallery = gallery[gallery.modality == (held == "infrared")]
        if calibration == "center":
            images = images[images.modality == (held == "infrared")]
    known = {tuple(row): i for i, row in enumerate(gallery.erased.tolist())}
    own = [known.get(tuple(row), -1) for row in images.erased.tolist()]
    assert sorted({min(i, 0) for i in own}) == [-1, 0]  # queries inside and outside
    made = scores(images, gallery, RULE, calibration, self_index=own)
    assert made.dtype == torch.float32
    expected = literal(images, gallery, own, calibration)
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("calibration", [None, "znorm", "center"])
def test_the_literal_scores_of_the_audit_are_the_definition(calibration):
    images, rows = make(30), np.arange(30)
    for gallery in (rows[6:], np.flatnonzero(images.modality == 1)):
        queries = rows[:20]
        if calibration == "center" and not np.isin(0, images.modality[gallery]):
            continue
        own = [gallery.tolist().index(q) if q in gallery else -1 for q in queries]
        made, slack = literal_scores(images, queries, gallery, RULES[RULE], calibration)
        expected = literal(images[queries], images[gallery], own, calibration)
        np.testing.assert_allclose(made, expected, atol=1e-11)
        assert (slack >= 0).all()
        assert np.median(slack) < 1e-3


def scaling(cohort, source):
    own = torch.arange(len(source.features))
    return standardised(source, cohort, own).scaling


def degenerate():
    """Per modality one image unlike all the others, which are equal."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 16))[np.r_[0, np.ones(39, dtype=int)]]
    values = np.concatenate([values, -values])
    return FeatureSet(values, values, *[[0] * 80] * 2, [0] * 40 + [1] * 40)


@pytest.mark.parametrize("images", [make(60), degenerate()], ids=["usual", "degenerate"])
def test_moments_and_products_agree(images, monkeypatch):
    source = unit_source(images, ONE)
    found = find_cohort(source, torch.arange(len(images)), ONE.values())
    # Related cosines count within a modality only, but each modality has some.
    assert set(found.moments) == {(name, m) for name in ("erased", "related") for m in (0, 1)}
    by_moments, by_products = scaling(found, source), scaling(replace(found, moments={}), source)
    monkeypatch.setattr(cohort_module, "_BLOCK", 24)  # several blocks of images and of items
    again = find_cohort(source, torch.arange(len(images)), ONE.values())
    in_blocks = scaling(again, source), scaling(replace(again, moments={}), source)
    for name, expected in by_products.items():
        for made in (by_moments, *in_blocks):
            torch.testing.assert_close(made[name], expected, rtol=1e-5, atol=1e-5)


def test_equal_cosines_count_nothing():
    images = degenerate()
    made = scaling(
        find_cohort(unit_source(images, ONE), torch.arange(80), ONE.values()),
        unit_source(images, ONE),
    )["erased"]
    assert made[[0, 40]].eq(0).all(dim=2).tolist() == [[True, False], [False, True]]
    ones = FeatureSet(torch.ones(9, 3), torch.ones(9, 2), *[[0] * 9] * 2, [0] * 4 + [1] * 5)
    assert scores(ones, ones, RULE).eq(0).all()
    few = replace(make(2), modality=torch.tensor([0, 1]))  # no other items to compare with
    assert scores(few, few, RULE, self_index=[0, 1]).eq(0).all()
    assert scores(make(3), make(4)[:0], RULE).shape == (3, 0)


def test_zero_features_have_no_side_of_their_own():
    gallery = make(20)
    zero = FeatureSet(torch.zeros(2, 5), torch.zeros(2, 6), [0, 0], [1, 1], [0, 1])
    cohort = find_cohort(unit_source(gallery, ONE), torch.arange(20), ONE.values())
    made = standardised(unit_source(zero, ONE), cohort, torch.tensor([-1, -1])).scaling
    assert all(value.eq(0).all() for value in made.values())
    expected = literal(zero, gallery, [-1, -1])
    np.testing.assert_allclose(scores(zero, gallery, RULE), expected, atol=1e-4, rtol=1e-5)


def test_a_single_query_equals_its_row_of_many():
    query, gallery = make(12, 1), make(40)
    together = scores(query, gallery, RULE)
    for i in range(12):
        alone = scores(query[i : i + 1], gallery, RULE)
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=0)


def test_a_prepared_gallery_serves_many_queries():
    query, gallery = make(12, 1), make(40)
    score = scorer(gallery, RULE, "center")
    assert torch.equal(score(query[:5], None), scores(query[:5], gallery, RULE, "center"))
    own = list(range(40))
    expected = scores(gallery, gallery, RULE, "center", self_index=own)
    assert torch.equal(score(gallery, own), expected)


def test_leaking_modality_moves_no_score():
    """A dimension that tells the modality makes across cosines smaller, and changes no order."""
    query, gallery = make(20, 1), make(60)

    def leaking(images):
        unit = torch.nn.functional.normalize(images.erased, dim=1)
        sign = 1.0 - 2.0 * images.modality[:, None]
        return replace(images, erased=torch.cat([0.6 * unit, 0.8 * sign], dim=1))

    pairs = [(query, gallery), (leaking(query), leaking(gallery))]
    plain = [scores(*pair, "mixer") for pair in pairs]
    assert (plain[0] - plain[1]).abs().max() > 0.5
    one, two = (scores(*pair, RULE) for pair in pairs)
    torch.testing.assert_close(one, two, atol=1e-4, rtol=0)


def test_labels_are_not_used():
    query, gallery = make(12, 1), make(40)
    other = [replace(x, ids=x.ids.flip(0) + 7) for x in (query, gallery)]
    other[0] = replace(other[0], cams=query.cams * 0 + 1)
    assert torch.equal(scores(query, gallery, RULE), scores(*other, RULE))


def sysu_like():
    """Images in the cameras of SYSU-MM01, whose protocols draw a gallery without all of them."""
    rng = np.random.default_rng(0)
    keys = [(cam, i) for cam in range(1, 7) for i in (1, 2, 3, 4) for _ in range(3)]
    ids = [identity for _, identity in keys]
    codes = rng.normal(size=(5, 6))[ids]
    spread = np.array([[0.8 if cam in (3, 6) else 0.3] for cam, _ in keys])
    return FeatureSet(
        codes + spread * rng.normal(size=(72, 6)),
        codes + 0.3 * rng.normal(size=(72, 6)),
        ids,
        [cam for cam, _ in keys],
        [int(cam in (3, 6)) for cam, _ in keys],
        [f"cam{cam}/{i:04d}/{n:04d}.jpg" for n, (cam, i) in enumerate(keys)],
    )


@pytest.mark.parametrize("name", ["full", "sysu/all/single@ye", "sysu/indoor/single@ye"])
def test_evaluation_equals_literal_ranking(name):
    features = sysu_like()
    protocol = get_protocol(name)
    results = evaluate(
        features,
        protocol,
        rules=(RULE, "mixer"),
        query="both" if name == "full" else None,
        calibration=(None, "znorm", "center"),
        trials=None if name == "full" else 3,
    )
    found = audit(features, protocol, results, queries=1000)
    assert found.ok, str(found)
    assert found.complete
    assert all(row.equal == row.queries for row in found.rows)


def test_statistics_are_those_of_the_union_of_the_draws():
    features = sysu_like()
    name = "sysu/all/single@ye"
    changed = features.erased.clone()
    draws = get_protocol(name).draws(features, 3)
    outside = np.setdiff1d(np.arange(72), np.concatenate(draws))
    asking = get_protocol(name).queries(features, 1)
    unused = np.setdiff1d(outside, asking)
    assert len(unused)
    changed[unused] = 5.0
    options = {"rules": (RULE,), "trials": 3}
    one = evaluate(features, name, **options)
    two = evaluate(replace(features, erased=changed), name, **options)
    assert one.to_json() == two.to_json()


def test_threads_change_nothing():
    features = make(300, width=16)
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            options = {"rules": ("mixer", RULE), "calibration": (None, "center")}
            made.append(evaluate(features, "full", query="both", **options).to_json())
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1] == made[2]


def test_what_it_cannot_do_is_refused():
    features = make(40)
    with pytest.raises(MixERValueError, match="are standardised; use rule 'mixer'"):
        evaluate(features, "full", rules=("mixer", RULE), rerank="k-reciprocal")
    with pytest.raises(MixERValueError, match="needs related features"):
        scores(replace(features, related=None), features, RULE)
    with pytest.raises(MixERValueError, match="holds no infrared image"):
        scores(features, features[features.modality == 0], RULE, "center")
