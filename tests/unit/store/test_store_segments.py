from __future__ import annotations

import sqlite3
import warnings

import numpy as np
import pytest

from mixer_plugin.errors import MixERValueError, MixERWarning
from mixer_plugin.search import GalleryStore
from tests.search_cases import make
from tests.store_cases import Literal, check


def segments(folder):
    return sorted(path.name for path in folder.glob("segment-*.bin"))


@pytest.mark.parametrize("seed", range(4))
def test_any_changes_followed_by_others(tmp_path, seed):
    """Random changes; two that opened the store at other times see what the literal list holds."""
    rng = np.random.default_rng(seed)
    literal, query = Literal(), make(4, 99)
    store = GalleryStore.create(tmp_path, segment=int(rng.integers(5, 60)))
    follower = GalleryStore(tmp_path)
    with store, follower:
        for step in range(60):
            kind = rng.choice(["add", "add", "upsert", "remove", "compact", "reopen", "look"])
            held = [item.key for item in literal.items]
            if kind == "add":
                new = make(int(rng.integers(1, 25)), 100 + step, paths=False)
                literal.add(new, store.add(new))
            elif held and kind in ("upsert", "remove"):
                some = rng.choice(held, min(len(held), int(rng.integers(1, 20))), replace=False)
                some = some.tolist()
                if kind == "remove":
                    store.remove(some)
                    literal.remove(some)
                else:
                    new = make(len(some), 100 + step, paths=False)
                    literal.add(new, store.add(new, some, upsert=True))
            elif kind == "compact" and step % 3 == 0:
                store.compact()
            elif kind == "reopen":
                with GalleryStore(tmp_path) as fresh:
                    check(fresh.search(query, 15), literal.search(query), 15)
            elif kind == "look":
                check(follower.search(query, 15), literal.search(query), 15)
            assert len(store) == len(literal.items)
            check(store.search(query, 15), literal.search(query), 15)
        k = max(1, len(literal.items))
        for each in (store, follower):
            check(each.search(query, k, setting="mix"), literal.search(query), k)


def test_dead_images_leave_memory(tmp_path):
    query = make(3, 1)
    literal = Literal()
    with GalleryStore.create(tmp_path) as store:
        for step in range(12):
            new = make(1000, step, paths=False)
            payloads = [{"step": step, "i": i} for i in range(1000)]
            keys = store.add(new, payloads=payloads)
            store.search(query, 1)
            store.remove(keys[:-5])
            literal.add(new[-5:], keys[-5:], payloads=payloads[-5:])
        check(store.search(query, 60), literal.search(query), 60)
        assert len(store._state.columns) < 6000
        assert store.search(query, 60, filter="payload.step == 3").keys[0][5:] == (None,) * 55


def test_segments_are_sealed_dropped_and_compacted(tmp_path):
    with GalleryStore.create(tmp_path, segment=20) as store:
        keys = [store.add(make(20, i, paths=False)) for i in range(3)]
        assert len(segments(tmp_path)) == 6
        assert store.stats()["segments"] == 6
        assert store.stats()["unsealed"] == 0
        store.remove(keys[1])
        assert store.stats()["segment_images"] == 60
        store.add(make(20, 9, paths=False))
        assert len(segments(tmp_path)) == 6  # those of the second are gone
        store.add(make(3, 10, paths=False))
        assert store.stats()["unsealed"] == 3
        before = store.search(make(4, 11), 63)
        store.compact()
        assert len(segments(tmp_path)) == 2
        after = store.search(make(4, 11), 63)
        assert after.keys == before.keys
        told = store.stats()
        assert (told["images"], told["segment_images"], told["unsealed"]) == (63, 63, 0)
        store.remove([key for key in after.keys[0] if key is not None])
        store.compact()
        assert segments(tmp_path) == []
        assert store.search(make(1, 11), 2).keys == ((None, None),)


@pytest.mark.parametrize("harm", ["missing", "cut", "changed"])
def test_a_damaged_segment_is_made_anew(tmp_path, harm):
    literal, query = Literal(), make(5, 1)
    with GalleryStore.create(tmp_path, segment=30) as store:
        gallery = make(70, paths=False)
        for start in (0, 35):
            literal.add(gallery[start : start + 35], store.add(gallery[start : start + 35]))
        store.remove([3, 4, 40])
        literal.remove([3, 4, 40])
    path = tmp_path / segments(tmp_path)[1]
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-7] ^= 1
    path.unlink()
    if harm != "missing":
        path.write_bytes(whole[:-100] if harm == "cut" else changed)
    with GalleryStore(tmp_path) as store:
        with pytest.warns(MixERWarning, match=r"segment-2.bin was damaged and has been made anew"):
            check(store.search(query, 70), literal.search(query), 70)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check(store.search(query, 70), literal.search(query), 70)
    with warnings.catch_warnings(), GalleryStore(tmp_path) as store:
        warnings.simplefilter("error")
        check(store.search(query, 70), literal.search(query), 70)


def test_a_damaged_vector_is_left_out_and_named(tmp_path):
    literal, query = Literal(), make(5, 1)
    gallery = make(30, paths=False)
    with GalleryStore.create(tmp_path) as store:
        literal.add(gallery, store.add(gallery))
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE vectors SET vector = zeroblob(76) WHERE row = 8")
        connection.execute("DELETE FROM vectors WHERE row = 30")
    connection.close()
    literal.remove([7, 29])
    with GalleryStore(tmp_path) as store:
        assert store.check() == [7, 29]
        with pytest.warns(MixERWarning, match="damaged, and searches do not find it") as told:
            check(store.search(query, 30), literal.search(query), 30)
        assert [str(each.message).split("vector of ")[1].split()[0] for each in told] == ["7", "29"]
        store.add(gallery[7:8], [7], upsert=True)
        store.remove([29])
        literal.add(gallery[7:8], [7])
        assert store.check() == []
        check(store.search(query, 30), literal.search(query), 30)


def recall(hits, exact):
    pairs = zip(hits.keys, exact.keys, strict=True)
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs])


@pytest.mark.parametrize(
    ("factory", "parameters", "least"),
    [
        ("IVF8,Flat", "nprobe=8", 1.0),
        ("IVF8,Flat", "nprobe=4", 0.7),
        ("SQ8", "", 0.95),
        ("IVF4,SQ4", "nprobe=4", 0.5),
        ("HNSW16", "efSearch=64", 0.9),
    ],
)
def test_faiss_segments(tmp_path, monkeypatch, factory, parameters, least):
    pytest.importorskip("faiss")
    monkeypatch.setattr("mixer_plugin.search.store.ranking._FEW", 20)
    gallery, query = make(2000, paths=False), make(20, 1)
    exact = GalleryStore.create(tmp_path / "exact")
    store = GalleryStore.create(
        tmp_path / "fast", factory=factory, parameters=parameters, segment=500
    )
    with exact, store:
        for start in range(0, 2000, 400):
            for each in (exact, store):
                each.add(gallery[start : start + 400])
        for each in (exact, store):
            each.remove(range(0, 2000, 17))
        assert store.stats()["segments"] == 4
        few = "id == 3 and camera == 2 and key in (3, 40, 51) or key in (9, 12)"
        many = {"filter": "camera in (1, 2)", "setting": "mix-cam"}
        for _ in range(2):
            for given in ({}, many):
                hits, right = store.search(query, 10, **given), exact.search(query, 10, **given)
                assert recall(hits, right) >= least
                assert None not in hits.keys[0]
            keys = [each.search(query, 5, filter=few).keys for each in (store, exact)]
            assert keys[0] == keys[1]
            persons = [each.search(query, 6, group_by="id").ids for each in (store, exact)]
            found = persons[0][0][persons[0][0] >= 0].tolist()
            assert len(set(found)) == len(found) >= 2
            assert least < 1 or persons[0].equal(persons[1])
            store.compact()
        assert store.stats()["segments"] == 2
        before = store.search(query, 10)
    with GalleryStore(tmp_path / "fast") as store:
        assert store.search(query, 10).keys == before.keys


def test_a_factory_that_cannot_be_trained_yet_says_so(tmp_path):
    pytest.importorskip("faiss")
    literal, query = Literal(), make(3, 1)
    with GalleryStore.create(tmp_path, factory="IVF64,Flat", segment=20) as store:
        with pytest.warns(MixERWarning, match="cannot be trained on .* compared one by one"):
            literal.add(make(30), store.add(make(30)))
        check(store.search(query, 30), literal.search(query), 30)
        store.add(make(400, 5))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store.compact()
        kinds = {type(each.part).__name__ for each in store._state.segments}
        assert kinds == {"ExactPart"}
        store.search(query, 5)
        assert {type(each.part).__name__ for each in store._state.segments} == {"SubIndex"}
    with GalleryStore.create(tmp_path / "b", factory="IVF64,Flaat") as store:
        with pytest.raises(MixERValueError, match="FAISS cannot make an index 'IVF64,Flaat'"):
            store.add(make(3))
        assert len(store) == 0
        assert store.stats()["changes"] == 0


def test_a_first_set_of_one_modality(tmp_path):
    gallery, query = make(60), make(6, 1)
    visible = gallery[gallery.modality == 0]
    literal = Literal()
    with GalleryStore.create(tmp_path, segment=10) as store:
        literal.add(visible, store.add(visible))
        check(store.search(query, 60), literal.search(query), 60)
        infrared = gallery[gallery.modality == 1]
        literal.add(infrared, store.add(infrared))
        check(store.search(query, 60), literal.search(query), 60)
