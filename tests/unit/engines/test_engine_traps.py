"""Ways that look right and give another order, beside ours."""

from __future__ import annotations

import pytest
import torch

from mixer_plugin import FeatureSet
from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.engines import EngineGallery, MilvusEngine
from mixer_plugin.search.recall import recall_report
from tests.search_cases import check, make, ranked


def on_circle(cosines):
    """Vectors of two numbers with these cosines to (1, 0)."""
    return [[each, (1 - each * each) ** 0.5] for each in cosines]


def test_a_fusion_by_ranks_gives_another_order(new_engine):
    erased, sides = on_circle([0.9, 0.8, 0.7, 0.3, 0.2]), [0, 0, 0, 1, 1]
    images = FeatureSet(erased, None, [0] * 5, [0] * 5, sides)
    query = FeatureSet([[1.0, 0.0]], None, [0], [0], [0])
    made = EngineGallery.create(new_engine(), images, rule="erased")
    if isinstance(made.engine, MilvusEngine):
        pytest.skip("of Qdrant")
    models = pytest.importorskip("qdrant_client").models
    lists = [
        models.Prefetch(query=[1.0, 0.0], using=name, limit=5) for name in ("visible", "infrared")
    ]
    fused = made.engine.client.query_points(
        made.name, prefetch=lists, query=models.FusionQuery(fusion=models.Fusion.RRF), limit=5
    )
    assert made.search(query, 5).keys.tolist() == [[0, 1, 2, 3, 4]]
    found = [point.id for point in fused.points]
    assert {*found[:2]} == {0, 3}  # the first of each list: a cosine of 0.3 before one of 0.8
    assert {*found[2:4]} == {1, 4}


def test_a_filter_after_the_search_leaves_fewer_than_k(new_engine):
    gallery, query = make(200), make(1, 1)
    made = EngineGallery.create(new_engine(), gallery)
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


def test_a_ranker_that_normalises_gives_another_order(new_engine):
    """Two searches, of the erased and the related half, whose scores are to be added."""
    cosines = [[1.0, 0.48, 0.3], [0.0, 0.48, 0.3]]
    images = FeatureSet(*map(on_circle, cosines), [0] * 3, [0] * 3, [1] * 3)
    query = FeatureSet([[1.0, 0.0]], [[1.0, 0.0]], [0], [0], [1])
    made = EngineGallery.create(new_engine(), images)
    if not isinstance(made.engine, MilvusEngine):
        pytest.skip("of Milvus")
    pymilvus = pytest.importorskip("pymilvus")
    hits = made.search(query, 3)
    assert hits.keys.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(hits.scores, torch.tensor([[0.5, 0.48, 0.3]]))
    requests = [
        pymilvus.AnnSearchRequest(
            data=[half], anns_field="vector", param={"metric_type": "IP"}, limit=3
        )
        for half in ([0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0])
    ]
    (found,) = made.engine.client.hybrid_search(
        made.name, requests, pymilvus.WeightedRanker(1.0, 1.0), limit=3, output_fields=["key"]
    )
    # It adds arctangents: those of 0.24 and 0.24 are more than those of 0.5 and 0.
    assert [hit["key"] for hit in found] == [1, 0, 2]


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
    made.remove([7])
    with pytest.raises(MixERValueError, match="holds 199 images, the exact one 200"):
        recall_report(made, query, flat)
