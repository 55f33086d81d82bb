"""What evaluate takes from the protocol by default, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import SETTINGS, evaluate, get_protocol
from mixer_plugin.features import FeatureSet
from tests.unit.evaluation.evaluation_cases import make, ranked, row_of


def test_a_query_without_a_positive_can_be_an_error():
    features = ranked([1, 2, 1, 9], [6, 1, 2, 6], [1, 0, 0, 1])  # nobody else is 9
    assert row_of(features, "cross").queries_dropped == 1
    strict = get_protocol("full", no_positive="error")
    with pytest.raises(
        MixERValueError, match=r"1 queries have no positive in setting 'cross'.*row 3"
    ):
        row_of(features, "cross", strict)
    assert row_of(features[:3], "cross", strict).queries_dropped == 0


def test_settings_and_query_are_the_protocols_own_by_default():
    features = make(20)
    places = {(row.setting, row.query) for row in evaluate(features, "full").rows}
    assert places == {(setting, "infrared") for setting in SETTINGS}
    protocol = dataclasses.replace(get_protocol("full"), settings=("mix", "cross"), query="both")
    places = {(row.setting, row.query) for row in evaluate(features, protocol).rows}
    assert places == {(s, q) for s in ("mix", "cross") for q in ("infrared", "visible")}
    (row,) = evaluate(features, protocol, settings="uni", query="visible", rules="erased").rows
    assert (row.setting, row.query) == ("uni", "visible")


def test_market_is_evaluated_without_being_told_how():
    folders = ["query", "bounding_box_test", "bounding_box_test"]
    features = FeatureSet(
        *(np.eye(3), None, [1, 1, 2], [1, 2, 2], [0] * 3),
        paths=[f"{folder}/{row}.jpg" for row, folder in enumerate(folders)],
    )
    protocol = get_protocol("market1501")
    assert (protocol.settings, protocol.query) == (("uni",), "visible")
    results = evaluate(features, "market1501", rules=("erased",))
    told = evaluate(features, "market1501", settings=("uni",), query="visible", rules=("erased",))
    assert results.to_json() == told.to_json()
    assert len(results.rows) == 1
    with pytest.raises(MixERValueError, match="market1501 holds visible images only"):
        evaluate(features, "market1501", rules=("erased",), settings=("mix",))
    for query in ("infrared", "both"):
        with pytest.raises(MixERValueError, match="no infrared image to query with"):
            evaluate(features, "market1501", rules=("erased",), query=query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "ful"}, "Did you mean 'full'"),
        ({"settings": ("mixid",)}, "Did you mean 'mix-id'"),
        ({"settings": ()}, "settings is empty"),
        ({"rules": ("mixr",)}, "Did you mean 'mixer'"),
        ({"rules": ()}, "rules is empty"),
        ({"query": "thermal"}, "Unknown query 'thermal'"),
        ({"calibration": "zscore"}, "Unknown calibration"),
        ({"calibration": ()}, "calibration is empty"),
        ({"rerank": "k-reciprocol"}, "Did you mean 'k-reciprocal'"),
        ({"systems": ()}, r"systems must hold pairs .* got \(\)"),
        ({"systems": ("mixer", "erased")}, "systems must hold pairs"),
        ({"systems": [("mixr", None)]}, "Did you mean 'mixer'"),
        ({"systems": [("mixer", "zscore")]}, "Unknown calibration"),
        ({"systems": [("mixer", None)], "rules": "mixer"}, "leave out rules and calibration"),
        ({"systems": [("mixer", None)], "calibration": "znorm"}, "leave out rules and calib"),
        ({"shard": "row"}, "Did you mean 'rows'"),
        ({"trials": 2}, "has one trial"),
        ({"trials": 0}, "at least 1"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(MixERValueError, match=message):
        evaluate(make(20), **({"protocol": "full"} | options))


def test_systems_are_rows_of_the_product():
    features = make(30)
    systems = [("mixer-calibrated", None), ("mixer", "znorm"), ("mixer-shuffled", "center")]
    found = evaluate(features, "full", systems=[*systems, systems[0]], query="both")
    every = evaluate(
        features,
        "full",
        rules=[rule for rule, _ in systems],
        calibration=(None, "znorm", "center"),
        query="both",
    )
    assert [(row.rule, row.calibration) for row in found.rows] == systems * (2 * len(SETTINGS))
    rows = {row.key: row for row in every.rows}
    assert repr(found.rows) == repr([rows[row.key] for row in found.rows])
    assert found.select(systems[:1]).rows == found.rows[::3]
    assert all(
        np.array_equal(ap, every.per_query_ap[key][1], equal_nan=True)
        for key, (_, ap) in found.per_query_ap.items()
    )


def test_missing_features_or_queries_are_explained():
    with pytest.raises(MixERValueError, match="needs related features"):
        evaluate(make(20, related=False), "full")
    features = make(20)
    with pytest.raises(MixERValueError, match="no infrared image to query"):
        evaluate(features[features.modality == 0], "full")
