from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_plugin import scores
from mixer_plugin.errors import MixERValueError
from mixer_plugin.search import MixedModalIndex, recall_report
from tests.search_cases import build, check, make, ranked

pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")


@pytest.mark.parametrize("factory", ["IVF4,Flat", "HNSW8", "SQ8", "PCA8,Flat", "IVF4,PQ1x4"])
def test_other_factories_search_remove_and_save(factory, tmp_path):
    gallery, query = make(300), make(20, 1)
    index = build(gallery, "erased", factory, parameters="nprobe=4" if "IVF" in factory else "")
    gone = list(range(0, 300, 3))
    index.remove(gone)
    hits = index.search(query, 10)
    assert not set(hits.keys.flatten().tolist()) & {*gone, -1}
    matrix = scores(query, gallery, "erased")
    right = matrix[:, index.keys].topk(10).values.mean()
    assert matrix.gather(1, hits.keys).mean() > 0.6 * right
    assert hits.scores.diff(dim=1).le(0).all()
    index.save(tmp_path / "index")
    again = MixedModalIndex.load(tmp_path / "index", device="cpu").search(query, 10)
    assert torch.equal(again.keys, hits.keys)
    assert torch.equal(again.scores, hits.scores)
    index.add(make(5, 3))
    assert len(index) == 205


def test_all_of_an_approximate_index_comes_back_when_all_is_probed():
    gallery, query = make(200), make(20, 1)
    index = build(gallery, "mixer", "IVF4,Flat")
    index.tune("nprobe=4")
    check(index.search(query, 10), ranked(query, gallery), 10)
    report = recall_report(index, query, build(gallery), k=(10, 1))
    assert report.k == (1, 10)
    assert report.within == report.across == report.merged == (1.0, 1.0)
    index.tune("nprobe=1")
    with pytest.raises(MixERValueError, match="cannot set 'nprob=1' on an IndexIVFFlat"):
        index.tune("nprob=1")
    report = recall_report(index, query, build(gallery), k=(1, 10, 100))
    assert all(0 < value < 1 for value in (report.within[2], report.across[2], report.merged[2]))
    assert report.milliseconds > 0
    assert report.exact_milliseconds > 0
    table = report.to_markdown()
    assert "| pairs | recall@1 | recall@10 | recall@100 |" in table
    assert f"| across | {report.across[0]:.4f} | {report.across[1]:.4f} |" in table
    assert "IVF4,Flat: " in table


def test_recall_is_counted_as_defined():
    gallery, query = make(200), make(20, 1)
    index, exact = build(gallery, "mixer", "IVF8,Flat"), build(gallery)
    report = recall_report(index, query, exact, k=(5,))
    mine, right = index.search(query, 5).keys.tolist(), exact.search(query, 5).keys.tolist()
    shares = [len({*a} & {*b}) / 5 for a, b in zip(mine, right, strict=True)]
    assert report.merged[0] == pytest.approx(np.mean(shares))
    matrix, same = scores(query, gallery), query.modality[:, None] == gallery.modality
    for name, pairs in (("within", same), ("across", ~same)):
        shares = []
        for i in range(20):
            wanted = matrix[i].where(pairs[i], -torch.inf).topk(5).indices.tolist()
            lists = index.search_each(query[[i]], 5)
            side = int(query.modality[i]) if name == "within" else 1 - int(query.modality[i])
            shares.append(len({*lists[side][1][0].tolist()} & {*wanted}) / 5)
        assert getattr(report, name)[0] == pytest.approx(np.mean(shares))
    visible = gallery[gallery.modality == 0]
    report = recall_report(build(visible), visible, build(visible), k=(3,))
    assert report.within == (1.0,)
    assert np.isnan(report.across[0])


def test_recall_of_two_indexes_that_cannot_be_compared():
    gallery, query = make(50), make(5, 1)
    index, exact = build(gallery), build(gallery)
    with pytest.raises(MixERValueError, match="rule 'mixer', the exact one 'erased'"):
        recall_report(index, query, build(gallery, "erased"))
    with pytest.raises(MixERValueError, match="must be 'Flat', got 'HNSW8'"):
        recall_report(index, query, build(gallery, factory="HNSW8"))
    with pytest.raises(MixERValueError, match="from 1 on"):
        recall_report(index, query, exact, k=(0, 1))
    with pytest.raises(MixERValueError, match="at least one query"):
        recall_report(index, query[:0], exact)
    index.remove([0])
    with pytest.raises(MixERValueError, match="holds 49 images, the exact one 50"):
        recall_report(index, query, exact)


@pytest.mark.parametrize(
    ("factory", "parameters", "message"),
    [
        ("Flatt", "", "cannot make an index 'Flatt' of inner products of 19 dimensions: could not"),
        ("LSH", "", "METRIC_L2"),
        ("IVF64,Flat", "", "cannot be trained on [0-9]+ (visible|infrared) images"),
        ("IDMap,Flat", "", "takes no images in order"),
        ("HNSW8", "nprobe=3", "cannot set 'nprobe=3' on an IndexHNSWFlat"),
    ],
)
def test_a_factory_that_fails_says_why_and_leaves_the_index_empty(factory, parameters, message):
    index = MixedModalIndex(factory=factory, parameters=parameters, device="cpu")
    with pytest.raises(MixERValueError, match=message):
        index.add(make(40))
    assert index.total == 0
    assert index.search(make(2), 3).keys.eq(-1).all()
