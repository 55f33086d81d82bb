"""Small universes, with ties, duplicates and lists longer than the universe, by the definitions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mixer_plugin.evaluation.rerank.methods import AIM, Bridge, KReciprocal
from tests import literal_rerank
from tests.unit.evaluation.test_rerank import assert_same, cosines, run

METHODS = st.one_of(
    st.builds(
        KReciprocal,
        k1=st.integers(1, 25),
        k2=st.integers(2, 8),
        weight=st.sampled_from([0.0, 0.3, 1.0]),
        graph=st.sampled_from(["all", "queries"]),
    ),
    st.builds(KReciprocal, k1=st.integers(1, 5), k2=st.just(1)),
    st.builds(AIM, k1=st.integers(1, 6), k2=st.integers(1, 4)),
    st.builds(Bridge, k=st.integers(1, 4), mutual=st.booleans()),
    st.builds(Bridge, k=st.integers(1, 4), mode=st.just("max")),
)


@st.composite
def universes(draw):
    count = draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        # Cosines are multiples of 1/2, exact in any order: many ties, and images given twice.
        similarity = cosines(rng.choice([-1.0, 1.0], (count, 4)))
    else:
        similarity = cosines(rng.normal(size=(count, 6)))
    modality = rng.integers(0, 2, count)
    query = rng.integers(0, count, draw(st.integers(1, count)))  # a query may come twice
    gallery = rng.permutation(count)[: draw(st.integers(1, count))]
    kind = draw(st.sampled_from(["none", "random", "group", "group and itself"]))
    removed = None
    if kind == "random":
        removed = rng.random((len(query), count)) < rng.random()
    elif kind != "none":
        label = rng.integers(0, 4, count)
        removed = label[query][:, None] == label
        if kind == "group":
            removed &= query[:, None] != np.arange(count)
    return similarity, query, gallery, removed, modality


@given(METHODS, universes())
def test_equal_to_the_literal_form(method, universe):
    assert_same(run(method, *universe), literal_rerank.rerank(method, *universe))
