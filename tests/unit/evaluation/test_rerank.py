from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from mixer_plugin.benchmarks.speed import rerank_speed
from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.evaluation.rerank import aim, k_reciprocal, neighbours
from mixer_plugin.evaluation.rerank.methods import AIM, Bridge, KReciprocal, get_rerank, rerank
from mixer_plugin.evaluation.rerank.query_groups import groups
from tests import literal_rerank

METHODS = (
    KReciprocal(k1=6, k2=3),
    KReciprocal(k1=5, k2=1, weight=0.1),
    KReciprocal(k1=6, k2=3, graph="queries"),
    AIM(),
    AIM(k1=6, k2=3),
    Bridge(),
    Bridge(k=3, weight=0.3, mutual=True),
    Bridge(k=2, mode="max"),
)
NAMES = ("k-reciprocal", "k-reciprocal@queries", "aim", "bridge")


def cosines(features):
    features = np.asarray(features, np.float64)
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.float32(features @ features.T)


def world(count=90, seed=0, identities=7):
    """Similarities [N, N], identities, cameras and modalities of clustered random images."""
    rng = np.random.default_rng(seed)
    ids, cams = rng.integers(0, identities, count), rng.integers(0, 3, count)
    modality = rng.integers(0, 2, count)
    centers, shift = rng.normal(size=(identities, 16)), rng.normal(size=(2, 16))
    noise = rng.normal(size=(count, 16))
    return cosines(centers[ids] + 0.7 * shift[modality] + 1.2 * noise), ids, cams, modality


def run(method, similarity, query, gallery, removed=None, modality=None):
    """``rerank`` on arrays."""
    rows = torch.from_numpy(similarity)
    query, gallery = (torch.from_numpy(np.asarray(x)) for x in (query, gallery))
    removed, modality = (None if x is None else torch.from_numpy(x) for x in (removed, modality))
    return rerank(
        method, lambda index: rows[index], query, gallery, removed=removed, modality=modality
    ).numpy()


def masks(query, ids, cams, modality):
    """Removal masks as the settings make them, and a random one."""
    rng = np.random.default_rng(5)
    fellow = modality[query][:, None] == modality
    return {
        "none": None,
        "same camera": fellow & (cams[query][:, None] == cams),
        "same identity": fellow & (ids[query][:, None] == ids),
        "other camera": ~fellow & (cams[query][:, None] == cams),
        "random": rng.random((len(query), len(ids))) < 0.4,
    }


def assert_same(mine, literal):
    """Values to 1e-6, and one order wherever the literal values differ by more."""
    assert mine.dtype == np.float32
    assert np.array_equal(np.isinf(mine), np.isinf(literal))
    finite = np.isfinite(literal)
    assert np.abs(mine[finite] - literal[finite]).max(initial=0) <= 1e-6
    ordered = np.take_along_axis(literal, np.argsort(-mine, axis=1, kind="stable"), axis=1)
    with np.errstate(invalid="ignore"):  # -inf - -inf
        assert not (np.diff(ordered, axis=1) > 1e-6).any()


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [True, False], ids=["mixed gallery", "cross gallery"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_equal_to_the_literal_form_on_the_images_that_are_left(method, mixed):
    similarity, ids, cams, modality = world()
    query = np.flatnonzero(modality == 1)[::2]
    gallery = np.flatnonzero((modality == 0) | mixed)[::-1].copy()
    for removed in masks(query, ids, cams, modality).values():
        mine = run(method, similarity, query, gallery, removed, modality)
        literal = literal_rerank.rerank(method, similarity, query, gallery, removed, modality)
        assert_same(mine, literal)
        changed = np.isfinite(mine) & (np.abs(mine - similarity[np.ix_(query, gallery)]) > 1e-3)
        assert changed.any() or (isinstance(method, Bridge) and not mixed)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_blocks_and_short_lists_change_nothing(method, monkeypatch):
    similarity, ids, cams, modality = world(150, seed=1)
    query, gallery = np.flatnonzero(modality == 1), np.arange(150)
    every = masks(query, ids, cams, modality)
    before = {
        name: run(method, similarity, query, gallery, removed, modality)
        for name, removed in every.items()
    }
    monkeypatch.setattr(neighbours, "_KEEP_BYTES", 0)
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 0)  # 64 rows
    monkeypatch.setattr(neighbours, "_SPARE", 0)
    monkeypatch.setattr(neighbours, "_FAR", 1)
    monkeypatch.setattr(k_reciprocal, "_CELLS", 1000)
    monkeypatch.setattr(k_reciprocal, "_QUERIES", 3)
    monkeypatch.setattr(aim, "_CELLS", 1000)
    for name, removed in every.items():
        after = run(method, similarity, query, gallery, removed, modality)
        np.testing.assert_allclose(after, before[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_similarities_are_asked_for_in_blocks_of_rows(method, monkeypatch):
    monkeypatch.setattr(neighbours, "_KEEP_BYTES", 0)
    similarity, _, _, modality = world(1500, seed=2, identities=100)
    rows, asked = torch.from_numpy(similarity), []

    def ask(index):
        asked.append(len(index))
        return rows[index]

    query = torch.from_numpy(np.flatnonzero(modality == 1))
    kinds = torch.from_numpy(modality)
    rerank(method, ask, query, torch.arange(1500), modality=kinds)
    assert max(asked) <= 1024


def planted():
    """A query (0), a positive (1) unlike it, images (2-4) that look like both, and others.

    The images in between are of the query's modality and, to a removal rule, of its identity.
    """
    rng = np.random.default_rng(3)
    features = 0.25 * rng.normal(size=(60, 24))
    features[5:] += 1.5 * rng.normal(size=(55, 24))
    features[[0, 2, 3, 4], 0] += 3
    features[[1, 2, 3, 4], 1] += 3
    modality = np.arange(60) % 2
    modality[[0, 2, 3, 4]], modality[1] = 1, 0
    return features, modality


def rank_of_positive(scores):
    """How many of the items after the images in between score higher than the positive."""
    return int((scores[5:] > scores[1]).sum())


@pytest.mark.parametrize(
    ("name", "fellows"),
    # In the graph of the queries, who is no query is in no list.
    [(name, True) for name in NAMES]
    + [(name, False) for name in NAMES if name != "k-reciprocal@queries"],
)
def test_a_removed_image_leaves_no_trace(name, fellows):
    method = get_rerank(name)
    if isinstance(method, KReciprocal):
        method = KReciprocal(k1=5, k2=3, graph=method.graph)
    features, modality = planted()
    similarity = cosines(features)
    between = np.array([2, 3, 4])
    ignored = features.copy()
    ignored[between] = np.random.default_rng(4).normal(size=(3, 24))
    # Queries of one identity see one another removed; or two queries share what is removed.
    query = np.array([0, 2, 3, 4, *range(7, 60, 2)]) if fellows else np.array([0, *range(7, 60, 2)])
    removed = np.zeros((len(query), 60), bool)
    if fellows:
        removed[:4, [0, 2, 3, 4]] = True
        removed[np.arange(4), query[:4]] = False
    else:
        removed[:2, between] = True
    gallery = np.arange(60)
    masked = run(method, similarity, query, gallery, removed, modality)[0]
    other = run(method, cosines(ignored), query, gallery, removed, modality)[0]
    assert np.array_equal(masked, other)
    assert np.isinf(masked[between]).all()

    left = np.setdiff1d(gallery, between)
    queries = np.searchsorted(left, np.setdiff1d(query, between, assume_unique=True))
    small = similarity[np.ix_(left, left)]
    if fellows:  # nobody else is a fellow
        deleted = run(method, small, queries, np.arange(57), None, modality[left])[0]
        np.testing.assert_allclose(masked[left], deleted, atol=1e-6, rtol=0)

    leaking = run(method, similarity, query, gallery, None, modality)[0]
    assert rank_of_positive(leaking) < rank_of_positive(masked)


def test_the_graph_of_the_queries_depends_on_how_many_there_are():
    similarity, _, _, modality = world(120, seed=6)
    query, gallery = np.flatnonzero(modality == 1), np.flatnonzero(modality == 0)
    whole = {
        graph: run(KReciprocal(k1=6, k2=3, graph=graph), similarity, query, gallery)
        for graph in ("all", "queries")
    }
    assert np.abs(whole["all"] - whole["queries"]).max() > 0.01
    few = {
        graph: run(KReciprocal(k1=6, k2=3, graph=graph), similarity, query[:20], gallery)
        for graph in ("all", "queries")
    }
    np.testing.assert_allclose(few["all"], whole["all"][:20], atol=1e-6, rtol=0)
    assert np.abs(few["queries"] - whole["queries"][:20]).max() > 0.01


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_order_of_the_images_does_not_matter(method):
    similarity, ids, cams, modality = world(80, seed=7)
    query, gallery = np.flatnonzero(modality == 1), np.arange(80)
    removed = masks(query, ids, cams, modality)["same camera"]
    order = np.random.default_rng(8).permutation(80)  # new number -> old
    new = np.argsort(order)
    mine = run(method, similarity, query, gallery, removed, modality)
    moved = run(
        method,
        similarity[np.ix_(order, order)],
        new[query],
        new[gallery],
        removed[:, order],
        modality[order],
    )
    np.testing.assert_allclose(moved, mine, atol=1e-6, rtol=0)


def test_neighbours_that_tie_are_taken_by_number():
    block = torch.tensor([[0.5, 1.0, 0.5, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    node, score = neighbours.largest(block, 3)
    assert node.tolist() == [[1, 4, 0], [4, 0, 1]]
    assert score.tolist() == [[1.0, 1.0, 0.5], [1.0, 0.0, 0.0]]
    node, _ = neighbours.largest(torch.tensor([[1.0, -torch.inf]]), 3)
    assert node.tolist() == [[0, -1, -1]]


def test_the_bridge_changes_scores_across_modalities_only_and_needs_a_candidate():
    similarity, _, _, modality = world(60, seed=9)
    query, gallery = np.flatnonzero(modality == 1), np.arange(60)
    removed = np.zeros((len(query), 60), bool)
    removed[0, modality == 1] = True
    mine = run(Bridge(), similarity, query, gallery, removed, modality)
    given = similarity[np.ix_(query, gallery)]
    assert np.array_equal(mine[0, modality == 0], given[0, modality == 0])
    assert np.array_equal(mine[1:, modality == 1], given[1:, modality == 1])
    assert (mine[1:, modality == 0] != given[1:, modality == 0]).all(axis=1).all()


def test_queries_are_grouped_by_what_exists_for_them():
    query = torch.tensor([0, 1, 2, 3, 4])
    removed = torch.zeros(5, 8, dtype=torch.bool)
    removed[0, [1, 5]] = removed[1, [0, 5]] = True  # fellows
    removed[2, 6] = removed[3, 6] = True
    removed[4, [4, 7]] = True  # a query exists for itself
    found = [
        (group.rows.tolist(), group.alive.nonzero().flatten().tolist(), group.inserted)
        for group in groups(query, removed, 8)
    ]
    assert sorted(found) == [
        ([0, 1], [2, 3, 4, 6, 7], True),
        ([2, 3], [0, 1, 2, 3, 4, 5, 7], False),
        ([4], [0, 1, 2, 3, 5, 6], True),
    ]


def test_labels_tell_the_options_the_graph_and_the_number_of_queries():
    label = "k-reciprocal(k1=20, k2=6, weight=0.3, graph=all, 3803 queries)"
    assert get_rerank("k-reciprocal").describe(3803) == label
    assert "graph=queries, 5 queries" in get_rerank("k-reciprocal@queries").describe(5)
    assert get_rerank("aim").describe(7) == "aim(k1=4, k2=1, 7 queries)"
    assert "reconstruction" in get_rerank("bridge").describe(7)
    label = Bridge(k=2, mode="max", mutual=True).describe(7)
    assert label == "bridge(reconstruction, k=2, max, mutual, 7 queries)"
    own = AIM(k1=2)
    assert get_rerank(own) is own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get_rerank("k-recipocal"), "Did you mean 'k-reciprocal'"),
        (lambda: KReciprocal(graph="query"), "Did you mean 'queries'"),
        (lambda: KReciprocal(k1=0), "k1 must be"),
        (lambda: KReciprocal(k1=2.0), "k1 must be"),
        (lambda: KReciprocal(k2=1, graph="queries"), "k2 must be .* at least 2"),
        (lambda: KReciprocal(weight=1.5), "weight must lie"),
        (lambda: KReciprocal(weight=float("nan")), "weight must lie"),
        (lambda: AIM(k2=True), "k2 must be"),
        (lambda: Bridge(mode="maximum"), "Options: max, mean"),
        (lambda: Bridge(mode="max", weight=0.2), "leave weight out"),
        (lambda: Bridge(k=0), "k must be"),
    ],
)
def test_options_that_cannot_be_are_refused(make, message):
    with pytest.raises(MixERValueError, match=message):
        make()


def test_arguments_that_do_not_fit_are_refused():
    similarity, _, _, modality = world(20)
    rows = torch.from_numpy(similarity)
    index, kinds = torch.arange(20), torch.from_numpy(modality)

    def call(method="aim", ask=rows.__getitem__, query=index[:5], gallery=index, **options):
        return rerank(method, ask, query, gallery, **options)

    for options, error, message in [
        ({"method": 3}, MixERTypeError, "must be a name"),
        ({"query": index[:5].int()}, MixERTypeError, "query must be"),
        ({"query": index[:5] + 16}, MixERValueError, "between 0 and 19"),
        ({"gallery": torch.tensor([1, 1])}, MixERValueError, "twice"),
        ({"removed": torch.zeros(5, 20)}, MixERTypeError, "bool"),
        ({"removed": torch.zeros(4, 20).bool()}, MixERValueError, r"shape \(5, 20\)"),
        ({"ask": lambda i: rows[i].double()}, MixERValueError, "float32"),
        ({"ask": lambda i: rows[i][0]}, MixERValueError, r"\[1, N\]"),
        ({"method": "bridge"}, MixERValueError, "needs modality"),
        ({"method": "bridge", "modality": kinds[:3]}, MixERValueError, "needs modality"),
    ]:
        with pytest.raises(error, match=message):
            call(**options)
    assert call(query=index[:0]).shape == (0, 20)
    assert call(gallery=index[:0]).shape == (5, 0)


PEERS = {
    "features": """
def re_ranking(q_feat, g_feat, k1, k2, lambda_value, eval_type=True):
    assert not eval_type
    features = np.concatenate([q_feat, g_feat])
    return literal(features @ features.T, len(q_feat), k1, k2, lambda_value)
""",
    "distances": """
def re_ranking(q_g_dist, q_q_dist, g_g_dist, k1, k2, lambda_value):
    distance = np.block([[q_q_dist, q_g_dist], [q_g_dist.T, g_g_dist]])
    return literal(np.float32(1 - distance ** 2 / 2), len(q_q_dist), k1, k2, lambda_value)
""",
}


@pytest.mark.parametrize("kind", PEERS)
def test_the_benchmark_compares_with_a_function_in_a_folder(kind, tmp_path, monkeypatch):
    head = """
import numpy as np
from mixer_plugin.evaluation.rerank.methods import KReciprocal
from tests import literal_rerank
def literal(similarity, queries, k1, k2, weight):
    index = np.arange(len(similarity))
    method = KReciprocal(k1=k1, k2=k2, weight=weight)
    return 1 - weight - literal_rerank.rerank(method, similarity, index[:queries], index[queries:])
"""
    (tmp_path / f"peer_{kind}.py").write_text(head + PEERS[kind])
    monkeypatch.setattr(sys, "path", list(sys.path))
    peer = rerank_speed.load_peer(tmp_path, f"peer_{kind}:re_ranking")
    report = rerank_speed.measure(24, 1, peer)
    assert (report["images"], report["queries"]) == (24, 9)
    assert report["cpu_minimum_ratio"] > 0
    assert report["agreement"]["largest_difference"] < 1e-5
    assert report["agreement"]["same_first"] == 1
    shuffled = peer(*rerank_speed.make_features(24))[:, ::-1]
    disagreeing = rerank_speed.compare(rerank_speed.ours(*rerank_speed.make_features(24)), shuffled)
    assert disagreeing["same_first"] < 1
    assert disagreeing["same_order"] == 0
    assert disagreeing["pairs_swapped"] > 0.1
