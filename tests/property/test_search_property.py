"""Random galleries, with heavy ties, against sorting the whole score matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores
from mixer_plugin.search import MixedModalIndex

pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")


@st.composite
def sets(draw, count, related=True):
    """Features in {-1, 1}^4 and zero vectors: cosines are multiples of 1/2, exact in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    side = draw(st.sampled_from(["both", "visible", "infrared"]))
    modality = rng.integers(0, 2, count) if side == "both" else np.full(count, side == "infrared")

    def features():
        return rng.choice([-1.0, 1.0], (count, 4)) * (rng.random((count, 1)) < 0.9)

    return FeatureSet(
        features(),
        features() if related else None,
        rng.integers(0, 4, count),
        rng.integers(1, 4, count),
        modality.astype(int),
    )


@st.composite
def cases(draw, rules):
    rule = draw(st.sampled_from(rules))
    related = rule != "erased" or draw(st.booleans())
    parts = [draw(sets(n, related)) for n in draw(st.lists(st.integers(0, 60), max_size=3))]
    gallery = FeatureSet.concatenate([*parts, draw(sets(draw(st.integers(0, 90)), related))])
    query = draw(sets(draw(st.integers(0, 8)), related))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gone = np.flatnonzero(rng.random(len(gallery)) < draw(st.sampled_from([0.0, 0.2, 0.9, 1.0])))
    share = draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    forbidden = rng.random((len(query), len(gallery))) < share
    k = draw(st.integers(1, 120))
    return rule, [len(part) for part in parts], gallery, query, gone, forbidden, k


def index_of(case):
    """Built in several steps, with some images removed."""
    rule, sizes, gallery, _, gone, _, _ = case
    index = MixedModalIndex(rule, device="cpu")
    start = 0
    for end in [*np.cumsum(sizes).tolist(), len(gallery)]:
        index.add(gallery[start:end])
        start = end
    index.remove(gone)
    return index


def literal(case):
    """For every query (score, key) of what may come back, best first."""
    rule, _, gallery, query, gone, forbidden, _ = case
    matrix = scores(query, gallery, rule).tolist()
    dead = set(gone.tolist())
    return [
        sorted(
            ((value, j) for j, value in enumerate(line) if j not in dead and not forbidden[i][j]),
            key=lambda pair: (-pair[0], pair[1]),
        )
        for i, line in enumerate(matrix)
    ]


@settings(suppress_health_check=list(HealthCheck))
@given(cases(["mixer", "erased", "related"]), st.booleans())
def test_lists_are_the_literal_ones_ties_included(case, as_mask):
    query, forbidden, k = case[3], case[5], case[6]
    exclude = forbidden if as_mask else [np.flatnonzero(row).tolist() for row in forbidden]
    hits = index_of(case).search(query, k, exclude=exclude)
    for i, line in enumerate(literal(case)):
        want = [*line, *[(-np.inf, -1)] * k][:k]
        assert hits.keys[i].tolist() == [key for _, key in want]
        assert hits.scores[i].tolist() == [value for value, _ in want]


@settings(suppress_health_check=list(HealthCheck))
@given(cases(["dev-sum", "dev-switch"]))
def test_scores_with_weights_that_are_not_exact(case):
    query, forbidden, k = case[3], case[5], case[6]
    hits = index_of(case).search(query, k, exclude=forbidden)
    for i, line in enumerate(literal(case)):
        found = [key for key in hits.keys[i].tolist() if key >= 0]
        known = {key: value for value, key in line}
        assert len(set(found)) == len(found) == min(k, len(line))
        for key, score, (want, _) in zip(found, hits.scores[i].tolist(), line, strict=False):
            assert score == pytest.approx(want, abs=1e-6)
            assert known[key] == pytest.approx(want, abs=1e-6)


def test_any_changed_byte_is_noticed_or_changes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    gallery = FeatureSet(
        rng.normal(size=(12, 3)),
        rng.normal(size=(12, 2)),
        rng.integers(0, 3, 12),
        rng.integers(0, 3, 12),
        np.arange(12) % 2,
        [f"{i}" for i in range(12)],
    )
    index = MixedModalIndex.build(gallery, calibration="center", device="cpu")
    file = tmp_path / "x"
    index.save(file)
    whole = file.read_bytes()
    expected = index.search(gallery, 12)
    noticed = 0
    places = st.integers(0, len(whole) - 1)

    @settings(max_examples=200, database=None)
    @given(places, st.integers(1, 255), st.one_of(st.none(), places))
    def change(place, bits, length):
        nonlocal noticed
        content = bytearray(whole)
        content[place] ^= bits
        file.write_bytes(content[:length])
        try:
            again = MixedModalIndex.load(file, device="cpu")
        except MixERValueError as error:
            noticed += str(file) in str(error)
            return
        hits = again.search(gallery, 12)
        assert torch.equal(hits.keys, expected.keys)
        assert torch.equal(hits.scores, expected.scores)
        assert hits.paths == expected.paths
        assert torch.equal(hits.ids, expected.ids)

    change()
    assert noticed > 50
