"""Random layouts, with heavy ties, against the literal evaluator of tests/bruteforce.py."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixer_plugin.evaluation import SETTINGS, evaluate, get_protocol
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores
from tests import bruteforce

FIELDS = (
    *("r1", "r5", "r10", "r20", "mAP", "mINP", "mAP_optimistic", "mAP_pessimistic"),
    *("queries_valid", "queries_dropped", "mean_positives"),
)


def layout(count, seed, ids, cams, shared, width):
    """Labels, and features in {-1, 1}^4: cosines are multiples of 1/2, exact in any order."""
    rng = np.random.default_rng(seed)
    modality = rng.integers(0, 2, count)
    modality[0] = 1
    camera = rng.integers(1, cams + 1, count)
    if not shared:
        camera = camera + 10 * modality
    return FeatureSet(
        erased=rng.choice([-1.0, 1.0], (count, width)),
        related=rng.choice([-1.0, 1.0], (count, width)),
        ids=rng.integers(1, ids + 1, count),
        cams=camera,
        modality=modality,
    )


@st.composite
def layouts(draw):
    return layout(
        count=draw(st.integers(2, 30)),
        seed=draw(st.integers(0, 2**32 - 1)),
        ids=draw(st.integers(1, 8)),
        cams=draw(st.integers(1, 4)),
        shared=draw(st.booleans()),  # one camera for both modalities
        width=draw(st.sampled_from([4, 16])),
    )


def compare(features, protocol, draws, rule, calibration=None, query="infrared", tolerance=1e-12):
    results = evaluate(
        features, protocol, rules=(rule,), query=query, calibration=calibration, trials=len(draws)
    )
    queries = np.flatnonzero(features.modality.numpy() == (query == "infrared")).tolist()
    rows = torch.as_tensor(queries)
    union = sorted({row for draw in draws for row in draw})
    # Calibration statistics are those of the union of the draws.
    place = {row: i for i, row in enumerate(union)}
    own = [place.get(row, -1) for row in queries]
    matrix = scores(features[rows], features[union], rule, calibration, self_index=own)
    values = [
        {row: value for row, value in zip(union, line, strict=True)} for line in matrix.tolist()
    ]
    labels = (features.ids.tolist(), features.cams.tolist(), features.modality.tolist())
    places = {"colocated": protocol.colocated, "colocated_mixed": protocol.colocated_mixed}
    for setting in SETTINGS:
        made = [
            bruteforce.evaluate_draw(
                values, queries, draw, setting, *labels, protocol.cmc == "dedup", **places
            )
            for draw in draws
        ]
        row = results.get(setting, rule, calibration=calibration)
        for field in FIELDS:
            known = [mean[field] for mean, _ in made if not math.isnan(mean[field])]
            expected = sum(known) / len(known) if known else math.nan
            if field == "mean_positives" and known:
                pairs = [(m["mean_positives"], m["queries_valid"]) for m, _ in made]
                total = sum(n for _, n in pairs)
                expected = sum(p * n for p, n in pairs if n) / total
            assert getattr(row, field) == pytest.approx(expected, abs=tolerance, nan_ok=True), (
                setting,
                field,
            )
        at, ap = results.per_query_ap[setting, rule, query, calibration]
        assert at.tolist() == queries
        for i, value in enumerate(ap):
            known = [aps[i] for _, aps in made if not math.isnan(aps[i])]
            expected = sum(known) / len(known) if known else math.nan
            assert value == pytest.approx(expected, abs=tolerance, nan_ok=True)


@pytest.mark.parametrize("rule", ["erased", "mixer"])
@pytest.mark.parametrize("cmc", ["dedup", "standard"])
def test_a_large_layout_equals_brute_force_under_heavy_ties(cmc, rule):
    features = layout(count=90, seed=0, ids=12, cams=3, shared=False, width=4)
    rng = np.random.default_rng(1)
    draws = [np.sort(rng.choice(90, size, replace=False)) for size in (90, 60, 12)]
    protocol = Drawn(get_protocol("full", cmc=cmc), draws)
    compare(features, protocol, [draw.tolist() for draw in draws], rule, query="visible")


@given(layouts(), st.sampled_from(["erased", "mixer", "related"]), st.booleans())
def test_every_setting_equals_brute_force_under_heavy_ties(features, rule, dedup):
    protocol = get_protocol("full", cmc="dedup" if dedup else "standard")
    compare(features, protocol, [list(range(len(features)))], rule)


@given(layouts(), st.booleans(), st.booleans())
def test_colocated_cameras_equal_brute_force(features, mixed, dedup):
    protocol = dataclasses.replace(
        get_protocol("full", cmc="dedup" if dedup else "standard"),
        colocated=((1, 11), (2, 13), (1, 2)),
        colocated_mixed=mixed,
    )
    compare(features, protocol, [list(range(len(features)))], "mixer")


class Drawn:
    """Gives a protocol draws of its own."""

    def __new__(cls, protocol, draws):
        made = dataclasses.replace(protocol)
        object.__setattr__(made, "draws", lambda features, trials=None: draws)
        return made


@given(layouts(), st.integers(0, 2**32 - 1), st.booleans())
def test_several_draws_equal_brute_force(features, seed, dedup):
    rng = np.random.default_rng(seed)
    count = len(features)
    draws = [
        np.sort(rng.choice(count, rng.integers(1, count + 1), replace=False)) for _ in range(3)
    ]
    protocol = Drawn(get_protocol("full", cmc="dedup" if dedup else "standard"), draws)
    compare(features, protocol, [draw.tolist() for draw in draws], "mixer")


@pytest.mark.parametrize("calibration", [None, "znorm", "center"])
@pytest.mark.parametrize("query", ["infrared", "visible"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_continuous_features_equal_brute_force(seed, query, calibration):
    rng = np.random.default_rng(seed)
    count = 120
    modality = rng.integers(0, 2, count)
    features = FeatureSet(
        erased=rng.normal(size=(count, 12)) + 0.5 * modality[:, None],
        related=rng.normal(size=(count, 8)),
        ids=rng.integers(1, 9, count),
        cams=rng.integers(1, 4, count) + 10 * modality,
        modality=modality,
    )
    for rule in ("mixer", "dev-sum", "dev-switch", "mixer-calibrated"):
        compare(
            features,
            get_protocol("full", cmc="dedup"),
            [list(range(count))],
            rule,
            calibration,
            query,
        )
