"""Results query by query."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.evaluation.per_query import QueryRow, cells, first_hits, worst
from mixer_plugin.features import Modality
from mixer_plugin.matching import scores
from tests.integration.evaluate.evaluate_cases import make


def literal(features, rule):
    """AP and first hit in ``mix`` of each infrared query, from the definitions."""
    score = scores(features, features, rule=rule)
    found = {}
    for query in np.flatnonzero(features.modality.numpy() == int(Modality.INFRARED)):
        order = sorted(
            (row for row in range(len(features)) if row != query),
            key=lambda row: (-float(score[query, row]), row),
        )
        right = [features.ids[row] == features.ids[query] for row in order]
        ranks = [place for place, hit in enumerate(right, 1) if hit]
        ap = np.mean([number / rank for number, rank in enumerate(ranks, 1)])
        found[int(query)] = (ap, ranks[0])
    return found


@pytest.mark.parametrize("rule", ["erased", "mixer"])
def test_each_row_is_what_its_ranked_list_says(rule):
    features = make()
    results = evaluate(features, get_protocol("full"), rules=(rule,), settings=("mix", "cross"))
    rows = [row for row in results.per_query if row.setting == "mix"]
    expected = literal(features, rule)
    assert [row.row for row in rows] == list(expected)
    for row in rows:
        assert (row.query, row.rule, row.calibration) == ("infrared", rule, None)
        assert row.path == features.paths[row.row]
        assert row.ap == pytest.approx(expected[row.row][0])
        assert row.first_hit == expected[row.row][1]
    assert results.get("mix", rule).mAP == pytest.approx(np.mean([row.ap for row in rows]))


def test_trials_without_a_positive_do_not_count():
    first = np.array([[1, 0, 4], [3, 0, 0]])
    np.testing.assert_array_equal(first_hits(first), [2, np.nan, 4])


def test_the_worst_come_first():
    rows = [
        QueryRow(n, f"/data/a/{n}.jpg", "visible", "mix", "mixer", None, ap, hit)
        for n, (ap, hit) in enumerate([(0.5, 2), (0.1, 3), (math.nan, math.nan), (0.1, 9)])
    ]
    assert [row.row for row in worst(rows, 2)] == [3, 1]
    assert [row.row for row in worst(rows, 9)] == [3, 1, 0]
    _, body = cells(worst(rows, 2))
    assert body[0] == ["3.jpg", "visible", "10.00", "9"]
    bare = QueryRow(7, None, "visible", "mix", "mixer", None, 0.5, 1)
    assert cells([bare])[1][0][0] == "row 7"
