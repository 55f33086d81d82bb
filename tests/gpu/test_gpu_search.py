from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MixERRuntimeError
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores
from mixer_plugin.search import MixedModalIndex, gpu, recall_report

faiss = pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not faiss.get_num_gpus(), reason="needs a GPU and faiss-gpu"),
]


def make(count, seed=0, exact=False):
    rng = np.random.default_rng(seed)

    def features(width):
        return rng.choice([-1.0, 1.0], (count, width)) if exact else rng.normal(size=(count, width))

    labels = (rng.integers(0, 50, count), rng.integers(1, 7, count), rng.integers(0, 2, count))
    return FeatureSet(features(16), features(4), *labels)


def test_the_gpu_works():
    assert gpu.probe(0) == ""
    assert "GPU 0" in repr(MixedModalIndex.build(make(20)))
    with pytest.raises(MixERRuntimeError, match="FAISS sees"):
        MixedModalIndex(device="cuda:99")


@pytest.mark.parametrize("rule", ["mixer", "erased", "dev-sum"])
@pytest.mark.parametrize("calibration", [None, "center"])
def test_flat_is_the_sorted_scores(rule, calibration):
    gallery, query = make(5000), make(100, 1)
    index = MixedModalIndex.build(gallery, rule, calibration=calibration, device="cuda")
    expected = scores(query, gallery, rule, calibration).sort(descending=True, stable=True)
    for k in (1, 10, 3000):  # the last is more than FAISS gives on a GPU
        hits = index.search(query.to("cuda"), k)
        assert not hits.keys.is_cuda
        torch.testing.assert_close(hits.scores, expected.values[:, :k], atol=2e-6, rtol=0)
        assert (hits.keys == expected.indices[:, :k]).float().mean() > 0.99


def test_ties_and_exclusions_are_those_of_the_cpu():
    gallery, query = make(3000, exact=True), make(50, 1, exact=True)
    here = MixedModalIndex.build(gallery, device="cpu")
    there = MixedModalIndex.build(gallery, device="cuda")
    forbidden = np.random.default_rng(0).random((50, 3000)) < 0.5
    for index in (here, there):
        index.remove(range(0, 3000, 5))
    for k in (1, 20):
        one, two = (x.search(query, k, exclude=forbidden) for x in (here, there))
        assert torch.equal(one.keys, two.keys)
        assert torch.equal(one.scores, two.scores)


def test_saved_indexes_are_those_of_the_cpu(tmp_path):
    gallery, query = make(2000), make(20, 1)
    index = MixedModalIndex.build(gallery, factory="IVF16,Flat", parameters="nprobe=16")
    assert recall_report(index, query, MixedModalIndex.build(gallery), k=(10,)).merged[0] > 0.99
    index.save(tmp_path / "x")
    for device in ("cpu", "cuda"):
        again = MixedModalIndex.load(tmp_path / "x", device=device).search(query, 10)
        torch.testing.assert_close(again.scores, index.search(query, 10).scores, atol=2e-6, rtol=0)


def test_an_index_without_a_gpu_version():
    gallery = make(200)
    index = MixedModalIndex.build(gallery, factory="HNSW8")
    with pytest.warns(UserWarning, match="stays on the CPU"):
        index.search(gallery, 3)
    with pytest.raises(MixERRuntimeError, match="cannot go to the GPU"):
        MixedModalIndex.build(gallery, factory="HNSW8", device="cuda").search(gallery, 3)
