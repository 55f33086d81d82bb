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
from mixer_plugin.matching import lift
from mixer_plugin.matching import score_norm as cohort_module
from mixer_plugin.matching.lift import sampled
from mixer_plugin.matching.normalized import unit_source
from mixer_plugin.matching.rules import RULES
from mixer_plugin.matching.score_norm import find_cohort, standardised
from mixer_plugin.matching.scores import scorer, scores

RULE = "mixer-calibrated"
ONE = {RULE: RULES[RULE]}


def make(count, seed=0, width=5):
    """Images of six persons, who are told better within a modality than across."""
    codes = np.random.default_rng(width).normal(size=(3, 6, width + 1))
    rng = np.random.default_rng(seed)
    modality, ids = (rng.permutation(np.arange(count) % n) for n in (2, 6))
    spread = np.where(modality == 1, 0.8, 0.2)[:, None]
    erased = codes[2, ids, 1:] + spread * rng.normal(size=(count, width))
    related = codes[modality, ids] + 0.2 * rng.normal(size=(count, width + 1))
    return FeatureSet(
        erased=erased + 0.7 * modality[:, None],
        related=related + 1,
        ids=ids,
        cams=rng.integers(1, 4, count) + 3 * modality,
        modality=modality,
    )


def unit(value):
    return value / np.maximum(np.linalg.norm(value, axis=1, keepdims=True), 1e-12)


def sides(query, gallery, calibration):
    """Normalised and perhaps centred features in float64, of queries and of the gallery."""
    made = {}
    for name in ("erased", "related"):
        q, g = (getattr(x, name).double().numpy() for x in (query, gallery))
        q, g = unit(q), unit(g)
        if calibration == "center":
            of_q, of_g = query.modality.numpy(), gallery.modality.numpy()
            for side in set(of_g.tolist()):
                mean = g[of_g == side].mean(axis=0)
                q[of_q == side] -= mean
                g[of_g == side] -= mean
            q, g = unit(q), unit(g)
        made[name] = q, g
    return made


def standard(value, others):
    deviation = np.std(others) if others else 0.0
    return (value - np.mean(others)) / deviation if deviation > 1e-9 else 0.0


def literal(query, gallery, own, calibration=None):
    """Pair by pair, from the definition."""
    slope, offset, means = literal_lift(gallery, calibration) if len(query) else (1.0, 0.0, {})
    result = unlifted(query, gallery, own, calibration, means)
    across = query.modality.numpy()[:, None] != gallery.modality.numpy()
    result = np.where(across, slope * result + offset, result)
    of_g = gallery.modality.tolist()
    if calibration == "znorm":
        plain = result.copy()
        for i in range(len(query)):
            for j in range(len(gallery)):
                others = [
                    plain[i, k] for k in range(len(gallery)) if of_g[k] == of_g[j] and k != own[i]
                ]
                result[i, j] = standard(plain[i, j], others)
    return result


def literal_lift(gallery, calibration, sample=None):
    """Slope, offset and means of right pairs by feature, from pairs of the gallery."""
    rows = list(range(len(gallery))) if sample is None else sample
    held = gallery[torch.tensor(rows)]

    def scored(**options):
        found = unlifted(held, gallery, rows, calibration, **options)
        return kinds_of(found[:, rows], held)

    means = {name: mean_of_right(scored(only=name)["within"]) for name in ("erased", "related")}
    made, plain = scored(means=means), scored(raw=True)
    across, within = (made[name] for name in ("across", "within"))
    if not across or not within or np.std(flat(within)) == 0:
        return 1.0, 0.0, means
    cubes = [np.mean(np.power(flat(kind), 3)) for kind in (across, within)]
    mean, slope = mean_of_right(within), 0.5
    if cubes[1] >= 0.05:
        slope = min(max(cubes[0] / cubes[1] * mean / 3, 0.5), 1.0)
    here = flat(plain["within"])
    further = (np.mean(flat(plain["across"])) - np.mean(here)) / np.std(here)
    nearly = 0.9 * best_of(within) - slope * best_of(across)
    offset = mean * (1 - slope**2) / 2
    return slope, max(offset, min(further, nearly)), means


def kinds_of(scored, gallery):
    """By kind of pair and image, its scores; within a modality of other cameras, if there are."""
    kinds = {"across": {}, "apart": {}, "together": {}}
    cams, modality = gallery.cams.tolist(), gallery.modality.tolist()
    for i in range(len(gallery)):
        for j in range(len(gallery)):
            kind = "apart" if cams[i] != cams[j] else "together"
            kind = "across" if modality[i] != modality[j] else kind
            if i != j:
                kinds[kind].setdefault(i, []).append(scored[i, j])
    return {"across": kinds["across"], "within": kinds["apart"] or kinds["together"]}


def flat(kind):
    return np.concatenate(list(kind.values()))


def best_of(kind):
    return np.mean([max(values) for values in kind.values()])


def mean_of_right(within):
    return min(max(best_of(within) - 0.35, 0.5), 3.0) if within else 3.0


def unlifted(query, gallery, own, calibration=None, means=None, *, only=None, raw=False):
    """The mean of the standardised cosines that count, weighted by ``means``.

    ``only``: of one feature, within a modality. ``raw``: without standardising.
    """
    made = sides(query, gallery, calibration)
    of_q, of_g = query.modality.tolist(), gallery.modality.tolist()
    result = np.zeros((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            terms, weights = [], []
            for name in ("erased", "related") if of_q[i] == of_g[j] else ("erased",):
                if only and only != name and of_q[i] == of_g[j]:
                    continue
                q, g = made[name]
                value = q[i] @ g[j]
                weights.append((means or {}).get(name, 1.0))
                if raw:
                    terms.append(value)
                    continue
                of_query = [
                    q[i] @ g[k] for k in range(len(g)) if of_g[k] == of_g[j] and k != own[i]
                ]
                of_item = [g[j] @ g[k] for k in range(len(g)) if of_g[k] == of_q[i] and k != j]
                if of_q[i] in of_g:
                    both = standard(value, of_query) + standard(value, of_item)
                    terms.append(both / 2)
                else:
                    terms.append(standard(value, of_query))
            result[i, j] = np.average(terms, weights=weights)
    return result


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


def test_the_worse_pairs_across_are_the_less_they_count():
    rng = np.random.default_rng(0)
    ids, modality = np.arange(240) % 30, np.arange(240) // 120
    codes = rng.normal(size=(30, 24))

    def images(noise):
        """Erased features that tell identity, worse in infrared images by some noise."""
        spread = np.where(modality == 1, noise, 0.0)[:, None]
        own = rng.normal(size=(2, 30, 24))[modality, ids]
        erased = codes[ids] + spread * own + 0.3 * rng.normal(size=(240, 24))
        related = own + 0.3 * rng.normal(size=(240, 24))
        return FeatureSet(erased, related, ids, np.arange(240) // 30, modality)

    lifts = []
    for noise in (0.1, 0.5, 3.0):
        features = images(noise)
        source = unit_source(features, ONE)
        lifts.append(find_cohort(source, torch.arange(240), ONE.values()).lifts[ONE[RULE]])
    slopes = [lift.slope for lift in lifts]
    assert 1 >= slopes[0] > slopes[1] > slopes[2] == 0.5
    for slope, offset, erased, related in lifts:
        assert offset == pytest.approx(1.5 * (1 - slope**2))  # right pairs are told well within
        assert (erased, related) == (3.0, 3.0)


def lift_of(features, rule=RULE):
    source, rules = unit_source(features, {"": RULES[rule]}), (RULES[rule],)
    return find_cohort(source, torch.arange(len(features)), rules).lifts[RULES[rule]]


def people(erased, related, shift, count=480, width=16):
    """Images of 40 people; how much noise each feature has, and a common part of the erased one."""
    rng = np.random.default_rng(0)
    ids, modality = np.arange(count) % 40, np.arange(count) // (count // 2)
    codes = rng.normal(size=(2, 40, width))
    noise = rng.normal(size=(2, count, width))
    return FeatureSet(
        shift + codes[0, ids] + erased * noise[0],
        codes[1, ids] + related * noise[1],
        ids,
        np.arange(count) // 40,
        modality,
    )


def test_scores_are_those_of_the_audit_where_pairs_across_count_more():
    features, rows = people(0.5, 0.2, 0.0, count=240), np.arange(240)
    found = lift_of(features)
    assert 0.52 < found.slope < 0.98
    assert found.erased < found.related
    made = scores(features, features, RULE, self_index=rows)
    expected, slack = literal_scores(features, rows, rows, RULES[RULE], None)
    others = ~np.eye(240, dtype=bool)
    assert (np.abs(made.numpy() - expected) <= slack)[others].all()
    np.testing.assert_allclose(made.numpy()[others], expected[others], atol=1e-4)


def mean_ap(features, rule):
    return {row.setting: row.mAP for row in evaluate(features, "full", rules=(rule,)).rows}


def test_a_feature_counts_by_how_well_it_tells_people():
    equal, worse = (lift_of(people(noise, 0.1, 0.0)) for noise in (0.1, 1.5))
    assert equal[2:] == (3.0, 3.0)
    assert worse.erased < worse.related == 3.0
    features = people(1.5, 0.2, 0.0)
    assert mean_ap(features, RULE)["uni"] > mean_ap(features, "mixer")["uni"] + 0.01


def test_pairs_across_stay_nearly_first_where_the_plain_rule_puts_them_first():
    """Erased cosines that are all large: fused ones within a modality are far below."""
    usual, large = (people(2.0, 0.2, shift) for shift in (0.0, 5.0))
    slope, offset, *_ = lift_of(usual)
    assert offset <= 1.5 * (1 - slope**2)
    slope, offset, *_ = lift_of(large)
    assert offset > 1.5 * (1 - slope**2) + 0.2
    plain, ours = (mean_ap(large, rule) for rule in ("mixer", RULE))
    for setting in ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id"):
        assert ours[setting] >= plain[setting]
    assert ours["mix"] > plain["mix"] + 0.1


def test_the_lift_is_that_of_the_sample(monkeypatch):
    monkeypatch.setattr(lift, "_SAMPLE", 8)
    features = make(40)
    rows = [torch.nonzero(features.modality == m).flatten()[::3] for m in (0, 1)]
    assert [len(part) for part in rows] == [7, 7]
    slope, offset, means = literal_lift(features, None, torch.cat(rows).tolist())
    expected = (slope, offset, means["erased"], means["related"])
    assert tuple(lift_of(features)) == pytest.approx(expected, abs=1e-5)
    assert abs(offset - literal_lift(features, None)[1]) > 0.01


def test_no_more_than_a_thousand_images_of_a_modality_are_looked_at():
    rows = torch.arange(2500), torch.arange(2500, 2510)
    found = sampled(rows)
    assert torch.equal(found, torch.cat([torch.arange(0, 2500, 3), rows[1]]))
    assert len(sampled((rows[0][:0], rows[1]))) == 10


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
