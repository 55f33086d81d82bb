from __future__ import annotations

import ast
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet
from mixer_plugin.errors import MissingExtraError, MixERRuntimeError
from mixer_plugin.search import MixedModalIndex, gpu
from tests.search_cases import build, check, make, ranked

faiss = pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")

SEARCH = Path(__file__).resolve().parents[3] / "mixer_plugin" / "search"


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"mixer-plugin\[faiss\]"):
        MixedModalIndex()


def test_faiss_is_imported_only_where_it_is_needed():
    files = list(SEARCH.glob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.parse(file.read_text("utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert "faiss" not in [*names, getattr(node, "module", None)], file


def pretend(monkeypatch, copy, reason=""):
    """A GPU that works, or does not for a reason, whatever FAISS this is."""
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(gpu, "probe", lambda number: reason)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: None, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy, raising=False)


def test_a_gpu_that_does_not_work_is_one_warning_or_an_error(monkeypatch):
    pretend(monkeypatch, None, "no kernel image")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        index = MixedModalIndex.build(make(30))
        index.search(make(3, 1))
        index.add(make(5, 2))
        index.search(make(3, 1))
    (warning,) = caught
    assert "no kernel image" in str(warning.message)
    assert "CPU)" in repr(index)
    with pytest.raises(MixERRuntimeError, match=r"'cuda': no kernel image"):
        MixedModalIndex(device="cuda")
    with pytest.raises(MixERRuntimeError, match="FAISS sees 1 GPUs"):
        MixedModalIndex(device="cuda:1")


def test_no_gpu_is_no_warning_and_an_error_only_when_asked_for(monkeypatch):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MixedModalIndex()
    with pytest.raises(MixERRuntimeError, match="Choose device='cpu'"):
        MixedModalIndex(device="cuda")
    for name in ("StandardGpuResources", "get_num_gpus"):  # faiss-cpu
        monkeypatch.delattr(faiss, name, raising=False)
    MixedModalIndex()
    with pytest.raises(MixERRuntimeError, match="install faiss-gpu"):
        MixedModalIndex(device="cuda")


def test_the_trial_of_a_gpu_tells_why_it_failed(monkeypatch):
    gpu.probe.cache_clear()
    assert gpu.probe(1000)  # no machine has as many
    monkeypatch.setattr(gpu, "_PROBE", "import os; os.abort()")
    assert gpu.probe(1001) == "the trial ended with status -6"
    gpu.probe.cache_clear()


class FakeGpu:
    """In the place of FAISS' copy: counts searches, and refuses what a GPU refuses."""

    def __init__(self, index):
        self.index, self.calls = index, 0

    def search(self, vectors, k):
        assert k <= 2048
        self.calls += 1
        return self.index.search(vectors, k)


def test_a_gpu_searches_a_copy_that_follows_the_index(monkeypatch, tmp_path):
    made = []

    def copy(resources, number, index):
        made.append(FakeGpu(faiss.clone_index(index)))
        return made[-1]

    pretend(monkeypatch, copy)
    gallery, query = make(60), make(10, 1)
    index = MixedModalIndex.build(gallery)
    assert "GPU 0" in repr(index)
    check(index.search(query, 5), ranked(query, gallery), 5)
    index.search(query, 5)
    assert [each.calls for each in made] == [2, 2]
    index.add(make(30, 2))
    whole = FeatureSet.concatenate([gallery, make(30, 2)])
    check(index.search(query, 90), ranked(query, whole), 90)
    assert len(made) == 4
    index.save(tmp_path / "x")
    check(MixedModalIndex.load(tmp_path / "x").search(query, 9), ranked(query, whole), 9)
    big = FeatureSet(np.ones((5000, 2)), None, *[np.zeros(5000, dtype=int)] * 3)
    index = MixedModalIndex.build(big, "erased")
    assert index.search(big[:2], 4).keys.tolist() == [[0, 1, 2, 3]] * 2  # 5,000 tie: the CPU


def test_an_index_that_does_not_go_to_the_gpu(monkeypatch):
    def copy(resources, number, index):
        raise RuntimeError("Error in x at y.cpp:3: not implemented")

    pretend(monkeypatch, copy)
    index = MixedModalIndex.build(make(30))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            check(index.search(make(3, 1), 5), ranked(make(3, 1), make(30)), 5)
    (warning,) = caught
    count = int((make(30).modality == 0).sum())  # of the modality that is copied first
    said = f"An IndexFlat of {count} images cannot go to the GPU: not implemented"
    assert said in str(warning.message)
    index = MixedModalIndex.build(make(30), device="cuda")
    with pytest.raises(MixERRuntimeError, match="cannot go to the GPU"):
        index.search(make(3, 1))


def test_threads_are_left_alone():
    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    build(make(30)).search(make(3, 1))
    assert (faiss.omp_get_max_threads(), torch.get_num_threads()) == before
