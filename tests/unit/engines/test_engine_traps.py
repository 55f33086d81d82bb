"""Ways that look right and give another order, beside ours."""

from __future__ import annotations

import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.engines import EngineGallery, MilvusEngine
from mixer_plugin.search.recall import recall_report
from mixer_plugin.search.vectors import normalised, query_vectors, searchable
from tests.search_cases import check, make, ranked

RULE = searchable("mixer", None)


def vectors_for(query):
    unit = normalised(query, RULE, None)
    return [query_vectors(unit, RULE, side)[0].tolist() for side in (0, 1)]


@pytest.fixture
def qdrant(new_engine):
    """A gallery in Qdrant, its query, and the two prefetches of a query."""
    gallery, query = make(200), make(1, 1)
    made = EngineGallery.create(new_engine(), gallery)
    if isinstance(made.engine, MilvusEngine):
        pytest.skip("of Qdrant")
    models = pytest.importorskip("qdrant_client").models
    prefetch = [
        models.Prefetch(query=vector, using=name, limit=10)
        for name, vector in zip(("visible", "infrared"), vectors_for(query), strict=True)
    ]
    return gallery, query, made, models, prefetch


def test_a_fusion_by_ranks_gives_another_order(qdrant):
    gallery, query, made, models, prefetch = qdrant
    fused = made.engine.client.query_points(
        made.name, prefetch=prefetch, query=models.FusionQuery(fusion=models.Fusion.RRF), limit=10
    )
    ours = check(made.search(query, 10), ranked(query, gallery), 10, atol=2e-6)
    assert [point.id for point in fused.points] != ours.keys[0].tolist()


def test_a_filter_after_the_search_leaves_fewer_than_k(qdrant):
    gallery, query, made, _, _ = qdrant
    found = made.search(query, 10)
    after = [key for key in found.keys[0].tolist() if gallery.cams[key] == 2]
    inside = made.search(query, 10, filter="camera == 2")
    forbidden = (gallery.cams != 2)[None].numpy()
    check(inside, ranked(query, gallery, forbidden=forbidden), 10, atol=2e-6)
    assert len(after) < 10


def test_padding_with_zero_beats_negative_scores(new_engine):
    gallery, query = make(60), make(4, 1)
    hits = EngineGallery.create(new_engine(), gallery).search(query, 70)
    assert (hits.scores[:, 59] < 0).all()  # a padding of 0 would stand before these
    assert (hits.scores[:, 60:] == -float("inf")).all()


def test_a_weighted_ranker_that_normalises_gives_another_score(new_engine):
    gallery, query = make(200), make(1, 1)
    made = EngineGallery.create(new_engine(), gallery)
    if not isinstance(made.engine, MilvusEngine):
        pytest.skip("of Milvus")
    pymilvus = pytest.importorskip("pymilvus")
    requests = [
        pymilvus.AnnSearchRequest(
            data=[vector],
            anns_field="vector",
            param={"metric_type": "IP"},
            limit=10,
            expr=f"modality == {side}",
        )
        for side, vector in enumerate(vectors_for(query))
    ]
    ours = check(made.search(query, 10), ranked(query, gallery), 10, atol=2e-6)
    (found,) = made.engine.client.hybrid_search(
        made.name, requests, pymilvus.WeightedRanker(1.0, 1.0), limit=10, output_fields=["key"]
    )
    assert abs(found[0]["distance"] - float(ours.scores[0, 0])) > 0.01


class Forgetful:
    """An engine whose index never finds every fifth image; neither local mode approximates."""

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def search(self, vectors, modality, limit, where, exact):
        lists = self.engine.search(vectors, modality, limit, where, True)
        if exact:
            return lists
        return [[match for match in each if match.labels.key % 5] for each in lists]


def test_an_approximate_index_is_measured_against_the_exact_one(new_engine):
    pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")
    from tests.search_cases import build

    gallery, query = make(200), make(20, 1)
    made = EngineGallery.create(Forgetful(new_engine()), gallery)
    flat = build(gallery)
    assert recall_report(made, query, flat, k=(1, 10)).merged == (1.0, 1.0)
    right = flat.search(query, 10).keys
    wanted = [float((right[:, :k] % 5 > 0).float().mean()) for k in (1, 10)]
    report = recall_report(made.approximate(), query, flat, k=(1, 10))
    assert report.merged == pytest.approx(wanted)
    assert report.factory == made.factory
    made.delete([7])
    with pytest.raises(MixERValueError, match="holds 199 images, the exact one 200"):
        recall_report(made, query, flat)
