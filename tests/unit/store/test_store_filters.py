from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_plugin.search import GalleryStore
from mixer_plugin.search.filter_grammar import And, Compare, Not, OneOf, Or, parse_filter
from tests.search_cases import make
from tests.store_cases import Literal, check

VALUES = [1, 1.0, 2.5, -3, True, False, "a", "b", "1", ""]
KEYS = [i if i % 3 else f"k{i}" for i in range(60)]
TIMES = [None if i % 5 == 0 else float(i % 7) for i in range(60)]
PAYLOADS = [
    None
    if i % 6 == 0
    else {"x": VALUES[i % 10], "y": {"z": VALUES[i % 4]}, "w": [1], "n": None, "": i}
    for i in range(60)
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store of two segments and a tail with some images gone, and what is in it."""
    gallery, literal = make(60), Literal()
    folder = tmp_path_factory.mktemp("store")
    with GalleryStore.create(folder, segment=25) as store:
        for start in range(0, 60, 20):
            part = slice(start, start + 20)
            extra = {"times": TIMES[part], "payloads": PAYLOADS[part]}
            literal.add(gallery[part], store.add(gallery[part], KEYS[part], **extra), **extra)
        gone = KEYS[5:50:7]
        store.remove(gone)
        literal.remove(gone)
        yield store, literal


def comparisons():
    numbers = st.integers(-2, 6)
    plain = st.one_of(
        st.builds(OneOf, st.just("id"), st.tuples(numbers, numbers)),
        st.builds(OneOf, st.just("camera"), st.tuples(numbers)),
        st.builds(OneOf, st.just("modality"), st.sampled_from([(0,), (1,), (0, 1)])),
        st.builds(OneOf, st.just("time"), st.tuples(st.integers(-1, 8).map(float))),
        st.builds(OneOf, st.just("key"), st.lists(st.sampled_from(KEYS), min_size=1).map(tuple)),
        st.builds(
            Compare,
            st.sampled_from(["id", "camera", "time"]),
            st.sampled_from(["<", "<=", ">", ">="]),
            numbers,
        ),
    )
    names = st.sampled_from([("x",), ("y", "z"), ("y",), ("w",), ("n",), ("",), ("none",)])
    values = st.lists(st.sampled_from(VALUES), min_size=1).map(tuple)
    ordered = st.sampled_from([v for v in VALUES if not isinstance(v, bool)])
    payload = st.one_of(
        st.builds(OneOf, st.just("payload"), values, names),
        st.builds(
            Compare, st.just("payload"), st.sampled_from(["<", "<=", ">", ">="]), ordered, names
        ),
    )
    return plain | payload


def expressions():
    return st.recursive(
        comparisons(),
        lambda parts: st.one_of(
            st.builds(Not, parts),
            st.builds(And, st.lists(parts, min_size=2, max_size=3).map(tuple)),
            st.builds(Or, st.lists(parts, min_size=2, max_size=3).map(tuple)),
        ),
        max_leaves=5,
    )


@given(expression=expressions(), k=st.sampled_from([1, 7, 70]))
def test_k_images_come_back_that_pass(stored, expression, k):
    store, literal = stored
    query = make(3, 1)
    check(
        store.search(query, k, filter=expression), literal.search(query, expression=expression), k
    )


@pytest.mark.parametrize(
    "text",
    [
        "camera in (1, 2) and modality == infrared",
        "time between 1970-01-01T00:00:02 and 1970-01-01T00:00:04.5",
        "not time < 3",
        "time != 3",
        'payload.x == "1" or payload.y.z == 1',
        'payload."" >= 30',
        "key in (1, 'k3', 'k6') or id == -1",
        "key not in (1, 'k3', 999) and (payload.x > 1 or camera >= 3)",
    ],
)
def test_filters_as_text(stored, text):
    store, literal = stored
    query = make(4, 2)
    expected = literal.search(query, expression=parse_filter(text))
    assert 0 < len(expected[0]) < 53
    check(store.search(query, 60, filter=text), expected, 60)


def test_a_payload_may_bring_new_names_later(tmp_path):
    query = make(2, 1)
    with GalleryStore.create(tmp_path) as store:
        store.add(make(5, paths=False))
        assert store.search(query, 5, filter="payload.a == 1").keys[0] == (None,) * 5
        store.add(make(5, 2, paths=False), payloads=[None, {"a": 1}, {"a": 2}, {"b": 1}, {}])
        store.add(make(5, 3, paths=False))
        assert store.search(query, 2, filter="payload.a == 1").keys[0] == (6, None)
        assert set(store.search(query, 2, filter="payload.a >= 1").keys[0]) == {6, 7}
        kept = set(store.search(query, 15, filter="payload.a != 1").keys[0])
        assert kept == {None, *range(15)} - {6}
