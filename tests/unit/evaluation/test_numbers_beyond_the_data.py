"""Numbers far beyond the data: as good as all there is, or refused, at once."""

from __future__ import annotations

import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.rerank.methods import AIM, Bridge, KReciprocal
from mixer_plugin.evaluation.statistics import paired_bootstrap
from tests.unit.evaluation.evaluation_cases import make


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("k1", KReciprocal, {}),
        ("k2", KReciprocal, {}),
        ("k1", KReciprocal, {"graph": "queries"}),
        ("k1", AIM, {}),
        ("k2", AIM, {}),
        ("k", Bridge, {}),
        ("k", Bridge, {"mutual": True}),
        ("k", Bridge, {"mode": "max"}),
    ],
)
def test_lists_of_neighbours_beyond_the_gallery(name, kind, options):
    one = make(40)
    found = []
    for most in (200, 10**9, 10**30):
        method = kind(**{name: most}, **options)
        rows = evaluate(one, "full", settings=("mix",), rerank=method).rows
        found.append([(row.mAP, row.r1) for row in rows])
        assert rows[0].rerank.startswith(method.describe(20)[:10])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("trials", [0, -1, 10**9, 2.5, True, "3"])
def test_trials(trials):
    with pytest.raises(MixERValueError, match="at least 1 and at most 1000"):
        evaluate(make(), "full", trials=trials)


def test_resamples():
    a = make().ids.double().numpy()
    with pytest.raises(MixERValueError, match="resamples"):
        paired_bootstrap(a, a, a.astype(int), resamples=10**12)
