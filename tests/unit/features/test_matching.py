from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores
from mixer_plugin.matching.rules import RULES


def make(count, seed, related=True):
    rng = np.random.default_rng(seed)
    return FeatureSet(
        erased=rng.normal(size=(count, 6)),
        related=rng.normal(size=(count, 5)) if related else None,
        ids=np.arange(count),
        cams=np.ones(count, dtype=int),
        modality=rng.permutation(np.arange(count) % 2),
    )


def cosine(a, b):
    a, b = a.double().tolist(), b.double().tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def literal(rule, q, g, i, j):
    e = cosine(q.erased[i], g.erased[j])
    r = cosine(q.related[i], g.related[j])
    same = bool(q.modality[i] == g.modality[j])
    both_infrared = same and bool(q.modality[i] == 1)
    if rule == "mixer":
        if not same:
            return e
        halves = [torch.nn.functional.normalize(x, dim=0) for x in (q.erased[i], q.related[i])]
        others = [torch.nn.functional.normalize(x, dim=0) for x in (g.erased[j], g.related[j])]
        return cosine(torch.cat(halves), torch.cat(others))
    if rule == "dev-sum":
        return e + 0.7 * both_infrared * r
    if rule == "dev-switch":
        return (1 - both_infrared) * e + 0.7 * both_infrared * r
    if rule == "routed":
        return r if same else e
    return {"erased": e, "related": r, "fused": (e + r) / 2}[rule]


SUMS = [name for name, rule in RULES.items() if not rule.standardised]


@pytest.mark.parametrize("rule", [name for name in SUMS if name != "mixer-shuffled"])
def test_scores_equal_the_definition(rule):
    q, g = make(7, 0), make(9, 1)
    result = scores(q, g, rule)
    assert result.dtype == torch.float32
    assert result.shape == (7, 9)
    for i in range(7):
        for j in range(9):
            assert result[i, j].item() == pytest.approx(literal(rule, q, g, i, j), abs=2e-6)


def test_shuffled_rule_permutes_related_within_each_modality():
    g = make(40, 1)
    q = g[:1]  # one image has nothing to be shuffled with
    plain, shuffled = scores(q, g, "mixer")[0], scores(q, g, "mixer-shuffled")[0]
    across = g.modality != q.modality[0]
    assert torch.equal(plain[across], shuffled[across])
    assert not torch.equal(plain[~across], shuffled[~across])
    # Within the modality, the related parts are the same numbers in another order.
    erased = scores(q, g, "erased")[0]
    parts = [(2 * value - erased)[~across].sort().values for value in (plain, shuffled)]
    torch.testing.assert_close(*parts)
    assert torch.equal(shuffled, scores(q, g, "mixer-shuffled")[0])


def test_global_random_state_is_left_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    scores(make(5, 0), make(6, 1), "mixer-shuffled")
    assert torch.equal(before, torch.random.get_rng_state())


def test_zero_vectors_score_zero():
    q, g = make(3, 0), make(4, 1)
    zero = FeatureSet(torch.zeros(3, 6), torch.zeros(3, 5), q.ids, q.cams, q.modality)
    for rule in SUMS:
        assert scores(zero, g, rule).eq(0).all()


def test_znorm_is_standardisation_per_query_and_modality_without_the_query():
    g = make(20, 1)
    g = g[torch.argsort(g.modality, descending=True)]  # infrared first: not in the scorer's order
    q = g[[3, 8, 0]]
    plain = scores(q, g, "mixer").double().numpy()
    given = [3, -1, 0]
    result = scores(q, g, "mixer", "znorm", self_index=given).numpy()
    for i in range(len(q)):
        for modality in (0, 1):
            part = g.modality.numpy() == modality
            used = part.copy()
            if given[i] >= 0:
                used[given[i]] = False
            expected = (plain[i, part] - plain[i, used].mean()) / plain[i, used].std()
            np.testing.assert_allclose(result[i, part], expected, atol=1e-5)
    alone = scores(q[:1], g, "mixer", "znorm", self_index=[3])
    np.testing.assert_allclose(alone.numpy(), result[:1], atol=1e-5)


def test_znorm_of_equal_scores_is_zero():
    q = make(2, 0)
    g = FeatureSet(torch.ones(3, 6), torch.ones(3, 5), [1, 2, 3], [1, 1, 1], [0, 0, 1])
    assert scores(q, g, "mixer", "znorm").eq(0).all()


def test_center_subtracts_the_gallery_mean_of_each_modality():
    q, g = make(4, 0), make(30, 1)
    result = scores(q, g, "mixer", "center")

    def unit(value):
        return value / np.linalg.norm(value, axis=1, keepdims=True)

    made = {}
    for name in ("erased", "related"):
        mine, theirs = (unit(getattr(x, name).double().numpy()) for x in (q, g))
        for modality in (0, 1):
            mean = theirs[g.modality.numpy() == modality].mean(axis=0)
            for values, source in ((mine, q), (theirs, g)):
                values[source.modality.numpy() == modality] -= mean
        made[name] = unit(mine) @ unit(theirs).T
    same = q.modality.numpy()[:, None] == g.modality.numpy()
    expected = np.where(same, (made["erased"] + made["related"]) / 2, made["erased"])
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-6)


def test_center_needs_the_modality_of_the_query():
    q, g = make(4, 0), make(30, 1)
    with pytest.raises(MixERValueError, match="holds no infrared image"):
        scores(q, g[g.modality == 0], "erased", "center")


@pytest.mark.parametrize("calibration", [None, "znorm", "center"])
@pytest.mark.parametrize("rule", list(RULES))
def test_inputs_are_not_changed(rule, calibration):
    q, g = make(4, 0), make(9, 1)
    before = [x.clone() for x in (q.erased, q.related, g.erased, g.related)]
    scores(q, g, rule, calibration, self_index=[0, 1, 2, 3])
    for old, new in zip(before, (q.erased, q.related, g.erased, g.related), strict=True):
        assert torch.equal(old, new)


def test_products_are_full_float32_whatever_is_switched_on():
    q, g = make(30, 0), make(40, 1)
    expected = scores(q, g)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = scores(q, g)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(result, expected)


def test_unknown_names_and_missing_features_are_explained():
    q, g = make(2, 0), make(3, 1)
    with pytest.raises(MixERValueError, match="Did you mean 'mixer'"):
        scores(q, g, "mixr")
    with pytest.raises(MixERValueError, match="Did you mean 'znorm'"):
        scores(q, g, "mixer", "z-norm")
    bare = make(3, 1, related=False)
    for rule in ("mixer", "related", "dev-sum", "dev-switch", "mixer-shuffled"):
        with pytest.raises(MixERValueError, match="needs related features"):
            scores(q, bare, rule)
    torch.testing.assert_close(scores(q, bare, "erased"), scores(q, g, "erased"))
    other = FeatureSet(torch.ones(3, 5), None, g.ids, g.cams, g.modality)
    with pytest.raises(MixERValueError, match="width 6, the gallery of width 5"):
        scores(q, other, "erased")
    reduced = dataclasses.replace(g, reduction="0123")
    with pytest.raises(MixERValueError, match="by none, the gallery by 0123"):
        scores(q, reduced, "erased")


def test_self_index_is_checked():
    q, g = make(2, 0), make(3, 1)
    bounds = r"between -1 \(absent\) and 2,"
    for wrong, words in (([0], "one entry per query"), ([0, 3], bounds), ([-2, 0], bounds)):
        with pytest.raises(MixERValueError, match=words):
            scores(q, g, self_index=wrong)
    with pytest.raises(MixERTypeError, match="whole numbers"):
        scores(q, g, self_index=[0.5, 1.0])
