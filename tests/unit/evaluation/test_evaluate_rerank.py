"""Re-ranking within ``evaluate``: universe, removals and ranks from the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import SETTINGS, evaluate, get_protocol
from mixer_plugin.evaluation.rerank.methods import AIM, Bridge, KReciprocal, get_rerank
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores
from tests import bruteforce, literal_rerank

METHODS = (
    KReciprocal(k1=4, k2=2),
    KReciprocal(k1=4, k2=2, graph="queries"),
    AIM(k1=3, k2=2),
    Bridge(k=2),
)


def make(count=44, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    modality = np.arange(count) % 2
    ids = rng.integers(1, 6, count)
    codes = rng.normal(size=(6, 8))
    return FeatureSet(
        erased=codes[ids] + noise * rng.normal(size=(count, 8)),
        related=codes[ids] + noise * rng.normal(size=(count, 8)),
        ids=ids,
        cams=np.where(modality == 1, rng.choice([3, 6], count), rng.choice([1, 2, 4, 5], count)),
        modality=modality,
    )


def expected_ap(features, protocol, setting, method, rule, draw, side=1):
    """AP per query: images of the setting that it may not see are deleted, then all is literal."""
    ids, cams, modality = (x.tolist() for x in (features.ids, features.cams, features.modality))
    queries = [row for row, m in enumerate(modality) if m == side]
    held = {"cross": {1 - side}, "uni": {side}}.get(setting, {0, 1})
    gallery = [row for row in draw if modality[row] in held]
    nodes = sorted({*queries, *gallery})
    place = {row: i for i, row in enumerate(nodes)}
    similarity = scores(features[nodes], features[nodes], rule).numpy()

    def seen(q, x):
        labels = (ids, cams, modality, protocol.colocated)
        return bruteforce.allowed(setting, q, x, *labels)

    # An image that belongs on the setting's side, but not in this query's list, is not there.
    removed = np.array(
        [[modality[x] in held and x != q and not seen(q, x) for x in nodes] for q in queries]
    )
    matrix = literal_rerank.rerank(
        *(method, similarity),
        *(np.array([place[row] for row in rows]) for rows in (queries, gallery)),
        removed,
        np.array([modality[row] for row in nodes]),
    )
    aps = []
    for row, q in enumerate(queries):
        line = dict(zip(gallery, matrix[row].tolist(), strict=True))
        ranked = bruteforce.rank_list(line, [g for g in gallery if seen(q, g)])
        matches = [ids[g] == ids[q] for g in ranked]
        aps.append(bruteforce.average_precision(matches) if any(matches) else math.nan)
    return aps


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.describe(0))
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_equals_the_definitions(setting, method):
    features = make()
    protocol = get_protocol("sysu/all/single@ye")
    for rule in ("erased", "mixer"):
        results = evaluate(
            *(features, protocol), settings=(setting,), rules=(rule,), trials=2, rerank=method
        )
        drawn = [
            expected_ap(features, protocol, setting, method, rule, draw.tolist())
            for draw in protocol.draws(features, 2)
        ]
        at, ap = results.per_query_ap[setting, rule, "infrared", None]
        assert at.tolist() == np.flatnonzero(features.modality.numpy() == 1).tolist()
        for place, values in enumerate(zip(*drawn, strict=True)):
            known = [value for value in values if not math.isnan(value)]
            mean = sum(known) / len(known) if known else math.nan
            assert ap[place] == pytest.approx(mean, abs=1e-9, nan_ok=True), (place, values)


def test_the_row_says_how_it_was_re_ranked():
    features = make()
    results = evaluate(features, "full", rules=("erased",), rerank="k-reciprocal@queries")
    count = int(features.modality.sum())
    label = f"k-reciprocal(k1=20, k2=6, weight=0.3, graph=queries, {count} queries)"
    assert {row.rerank for row in results.rows} == {label}
    for text in (results.to_markdown(), results.to_csv(), results.to_latex(), results.to_json()):
        assert f"graph=queries, {count} queries" in text
    assert "re-ranking" not in evaluate(features, "full", rules=("erased",)).to_markdown()


@pytest.mark.parametrize("name", ["k-reciprocal", "aim", "bridge"])
def test_removed_positives_cannot_leak(name):
    """Whatever the removed images look like, the query's list stays as it is, bit for bit."""
    features = make(60, noise=2.0)
    query = int((features.modality == 1).nonzero()[0])
    own = (features.ids == features.ids[query]) & (features.modality == 1)
    own[query] = False
    assert int(own.sum()) >= 3
    planted = features.erased.clone()
    # Halfway between the query and its positives across: what a bridge would look like.
    across = (features.ids == features.ids[query]) & (features.modality == 0)
    unit = torch.nn.functional.normalize(planted, dim=1)
    planted[own] = unit[query] + unit[across].mean(dim=0)

    def ap(erased, setting):
        moved = FeatureSet(erased, None, features.ids, features.cams, features.modality)
        results = evaluate(moved, "full", rules=("erased",), settings=(setting,), rerank=name)
        at, values = results.per_query_ap[setting, "erased", "infrared", None]
        return values[at.tolist().index(query)]

    assert ap(planted, "mix-id") == ap(features.erased, "mix-id")
    # Where they are not removed, they do lift the query's list: the test can see a leak.
    assert ap(planted, "mix") > ap(features.erased, "mix")


def test_what_cannot_be_re_ranked_is_explained():
    with pytest.raises(MixERValueError, match="Did you mean 'k-reciprocal'"):
        evaluate(make(), "full", rerank="k-reciprocol")
    with pytest.raises(MixERValueError, match="'znorm' scores are one query's own"):
        evaluate(make(), "full", rerank="aim", calibration=(None, "znorm"))


def test_centred_features_are_re_ranked_too():
    features = make()
    results = evaluate(
        features, "full", rules=("erased",), calibration=(None, "center"), rerank=get_rerank("aim")
    )
    plain, centred = (results.get("mix", "erased", calibration=c) for c in (None, "center"))
    assert plain.mAP != centred.mAP
