"""What a search takes: as much as the gallery holds, parameters it can use, each image once."""

from __future__ import annotations

import copy
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from mixer_plugin.cli import main
from mixer_plugin.errors import MixERRuntimeError, MixERTypeError, MixERValueError
from mixer_plugin.search import MixedModalIndex, recall_report
from mixer_plugin.search.faiss_index import SubIndex
from tests.search_cases import build, make

pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")


@pytest.mark.parametrize("k", [10**6, 10**30])
def test_k_beyond_the_gallery(tmp_path, capsys, k):
    gallery, query = make(30), make(5, 1)
    index = build(gallery)
    hits = index.search(query, k)
    assert torch.equal(hits.keys[:, :30], index.search(query, 30).keys)
    assert (hits.keys[:, 30:] == -1).all()
    assert hits.keys.numel() < 10_000
    assert recall_report(index, query, index, (1, k)).merged == (1.0, 1.0)
    gallery.save(tmp_path / "g.npz")
    query.save(tmp_path / "q.npz")
    given = ["search", str(tmp_path / "g.npz"), str(tmp_path / "q.npz"), "-k", str(k)]
    assert main([*given, "--out", str(tmp_path / "h.csv"), "--device", "cpu"]) == 0
    assert len((tmp_path / "h.csv").read_text().splitlines()) == 1 + 5 * 30


BAD = [
    *("nprobe=0", "nprobe=-3", "nprobe=nan", "nprobe=1e9", "nprobe=1000000000", "nprobe=0.5"),
    *("nprobe=3x", "nprobe", "nprobe=2,", "nprobe=2,nprobe=0", "quantizer_efSearch=0"),
]


@pytest.mark.parametrize("parameters", BAD)
def test_parameters_are_checked_when_set(tmp_path, monkeypatch, parameters):
    index = build(make(80), factory="IVF2,Flat", parameters="nprobe=2")
    for refused in (
        lambda: MixedModalIndex("mixer", "IVF2,Flat", device="cpu", parameters=parameters),
        lambda: index.tune(parameters),
    ):
        with pytest.raises(MixERValueError, match="cannot be used"):
            refused()
    with monkeypatch.context() as patched:  # a file of an older version
        patched.setattr(index, "_parameters", parameters)
        index.save(tmp_path / "x")
    with pytest.raises(MixERValueError, match=r"x: .*cannot be used"):
        MixedModalIndex.load(tmp_path / "x", device="cpu")


@pytest.mark.parametrize("parameters", ["efSearch=0", "efSearch=-1", "efSearch=10000000"])
def test_parameters_of_other_kinds(parameters):
    with pytest.raises(MixERValueError, match="cannot be used"):
        build(make(40), factory="HNSW8", parameters=parameters)
    with pytest.raises(MixERValueError, match="k_factor_rf=0"):
        build(make(40), factory="SQ8,RFlat", parameters="k_factor_rf=0")
    build(make(40), factory="SQ8,RFlat", parameters="k_factor_rf=1.5")


def test_tuning_sets_all_parameters_or_none():
    index = build(make(80), factory="IVF4,Flat", parameters="nprobe=4")
    before = index.search(make(9, 1), 80).keys
    with pytest.raises(MixERValueError, match="could not set parameter efSerch"):
        index.tune("nprobe=1,efSerch=3")
    assert torch.equal(index.search(make(9, 1), 80).keys, before)


@pytest.mark.parametrize(
    "factory",
    ["IVF1000000000,Flat", "HNSW1000000000", "PQ4x24", "RR100000000,Flat", "IVF" + "9" * 30],
)
def test_memory_by_a_number_in_the_factory_string(factory):
    with pytest.raises(MixERValueError, match="too much for"):
        build(make(40), factory=factory)


def test_an_image_is_added_once():
    gallery = make(20)
    index = build(gallery)
    other = [f".\\{path}".replace("/", "\\") for path in gallery.paths]
    for again in (gallery[:3], replace(gallery, paths=other)):
        with pytest.raises(MixERValueError, match="in the index already, under key 0"):
            index.add(again)
    new = make(4, 1)
    with pytest.raises(MixERValueError, match="twice, in rows 0 and 1"):
        index.add(new[[0, 0, 1]])
    assert len(index) == index.total == 20
    assert index.keys_of(["./set0//3.jpg", "set0\\4.jpg"]) == [[3], [4]]
    index.remove([2])
    assert index.add(gallery[[2]]).tolist() == [20]
    assert index.keys_of([gallery.paths[2]]) == [[20]]


def test_unknown_persons_are_nobody_s_own_images():
    gallery, query = make(40), make(6, 1)
    strange = build(replace(gallery, ids=torch.full((40,), -1)))
    hits = strange.search(replace(query, ids=torch.full((6,), -1)), 40, setting="mix-id")
    assert (hits.keys >= 0).all()
    known = build(replace(gallery, ids=torch.full((40,), 7)))
    hits = known.search(replace(query, ids=torch.full((6,), 7)), 40, setting="mix-id")
    assert (hits.keys < 0).any()


def test_labels_far_apart():
    gallery, query = make(40), make(6, 1)
    far = [
        replace(each, ids=each.ids * (2**62 // 8) + 7, cams=-each.cams * 10**15)
        for each in (gallery, query)
    ]
    near = build(gallery).search(query, 20, setting="mix-cam-id")
    assert torch.equal(build(far[0]).search(far[1], 20, setting="mix-cam-id").keys, near.keys)
    with pytest.raises((MixERTypeError, MixERValueError)):
        build(gallery).search(query, 5, exclude=np.full((6, 1), 2**64 - 1, dtype=np.uint64))


def test_a_search_while_another_thread_adds(monkeypatch):
    index = build(make(30))
    inside, go_on = threading.Event(), threading.Event()
    added, add = [], SubIndex.add

    def slow(self, vectors, keys):
        inside.set()
        go_on.wait(10)
        add(self, vectors, keys)

    monkeypatch.setattr(SubIndex, "add", slow)
    thread = threading.Thread(target=lambda: added.append(index.add(make(9, 2))))
    thread.start()
    assert inside.wait(10)
    uses = (
        lambda: index.search(make(3, 1)),
        lambda: index.add(make(3, 3)),
        lambda: index.remove([0]),
        lambda: index.tune(""),
        lambda: index.save("nowhere"),
    )
    for use in uses:
        with pytest.raises(MixERRuntimeError, match="Another thread changes the index"):
            use()
    go_on.set()
    thread.join()
    assert len(added[0]) == 9
    assert index.search(make(3, 1), 5).keys.shape == (3, 5)


def test_adding_while_another_thread_searches(monkeypatch):
    index = build(make(30))
    search = SubIndex.search

    def adding(self, *args):
        with pytest.raises(MixERRuntimeError, match="Another thread searches the index"):
            index.add(make(3, 3))
        return search(self, *args)

    monkeypatch.setattr(SubIndex, "search", adding)
    assert index.search(make(3, 1), 5).keys.shape == (3, 5)
    monkeypatch.undo()
    assert len(index.add(make(3, 3))) == 3


@pytest.fixture
def sets(tmp_path):
    def write(gallery, query):
        gallery.save(tmp_path / "g.npz")
        query.save(tmp_path / "q.npz")
        return ["search", str(tmp_path / "g.npz"), str(tmp_path / "q.npz"), "--device", "cpu"]

    return write


def test_exclude_self_by_paths_written_in_another_way(sets, tmp_path, capsys):
    gallery = make(20)
    query = replace(gallery, paths=[p.replace("/", "\\") for p in gallery.paths])
    out = tmp_path / "h.csv"
    assert main([*sets(gallery, query), "-k", "1", "--exclude-self", "--out", str(out)]) == 0
    rows = [line.split(",") for line in out.read_text().splitlines()[1:]]
    assert len(rows) == 20
    assert all(row[0] != row[5] for row in rows)  # query and key


def test_exclude_self_that_excludes_nobody(sets, capsys):
    gallery = make(20)
    absolute = [f"/data/{path}" for path in gallery.paths]
    given = [*sets(gallery, replace(gallery, paths=absolute)), "--exclude-self"]
    assert main(given) == 2
    assert "finds no query in the gallery by its path, such as '/data/set0/0.jpg'" in (
        capsys.readouterr().err
    )
    some = [*absolute[:3], *gallery.paths[3:]]
    assert main([*sets(gallery, replace(gallery, paths=some)), "--exclude-self"]) == 0
    assert "3 of 20 queries are not in the gallery" in capsys.readouterr().err
    bare = make(20, paths=False)
    assert main([*sets(bare, bare[list(range(19, -1, -1))]), "--exclude-self"]) == 2
    assert "20 queries and 20 images of other labels" in capsys.readouterr().err
    assert main([*sets(bare, bare), "--exclude-self"]) == 0


def test_a_gallery_without_related_features_is_told(sets, capsys):
    gallery = make(20)
    assert main(sets(replace(gallery, related=None), gallery)) == 0
    assert "no related features: rule erased" in capsys.readouterr().err
    assert main(sets(gallery, gallery)) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))])
def test_a_copy_of_an_index_searches(copied):
    index, query = build(make(8)), make(2, 1)
    twin = copied(index)
    assert torch.equal(twin.search(query, 3).keys, index.search(query, 3).keys)
