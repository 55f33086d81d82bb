from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet
from mixer_plugin.errors import MixERRuntimeError, MixERTypeError, MixERValueError
from mixer_plugin.evaluation.settings import SETTINGS
from mixer_plugin.search import GalleryStore, MixedModalIndex, StoreHits
from tests.search_cases import build, make
from tests.store_cases import Literal, check

RULES = ("mixer", "fused", "erased", "related", "routed", "dev-sum", "dev-switch")
CALIBRATED = ("mixer-calibrated", "fused-calibrated", "erased-calibrated")


@pytest.mark.parametrize("segment", [1000, 60])
@pytest.mark.parametrize("rule", RULES)
def test_hits_are_the_sorted_scores(tmp_path, rule, segment):
    gallery, query = make(150), make(20, 1)
    literal = Literal()
    with GalleryStore.create(tmp_path, rule, segment=segment) as store:
        for part in (gallery[:70], gallery[70:100], gallery[100:]):
            literal.add(part, store.add(part))
        assert len(store) == 150
        for k in (1, 10, 150, 200):
            check(store.search(query, k), literal.search(query, rule), k)


@pytest.mark.parametrize("calibration", [None, "center"])
@pytest.mark.parametrize("rule", ["mixer", "dev-switch", *CALIBRATED])
def test_hits_are_those_of_the_index(tmp_path, rule, calibration):
    pytest.importorskip("faiss")
    first, later, query = make(90), make(40, 2), make(20, 1)
    index = build(first, rule, calibration=calibration)
    index.add(later)
    whole = FeatureSet.concatenate([first, later])
    with GalleryStore.create(tmp_path, rule, calibration=calibration, segment=50) as store:
        store.add(first)
        store.add(later)
        for setting in SETTINGS:
            mine, theirs = (each.search(query, 30, setting=setting) for each in (store, index))
            torch.testing.assert_close(mine.scores, theirs.scores, atol=3e-5, rtol=1e-5)
            names = [tuple(whole.paths[k] if k >= 0 else None for k in r) for r in theirs.keys]
            for mine_, theirs_ in zip(mine.keys, names, strict=True):
                assert sum(a != b for a, b in zip(mine_, theirs_, strict=True)) <= 2  # rounding
        store.compact()
        torch.testing.assert_close(
            store.search(query, 30).scores, index.search(query, 30).scores, atol=3e-5, rtol=1e-5
        )


@pytest.mark.parametrize("rule", CALIBRATED)
def test_the_first_set_is_what_calibrated_rules_standardise_by(tmp_path, rule):
    gallery, query = make(90), make(20, 1)
    literal = Literal()
    with GalleryStore.create(tmp_path, rule) as store:
        literal.add(gallery, store.add(gallery))
        check(store.search(query, 90), literal.search(query, rule), 90, atol=1e-4)


def test_file_names_that_are_no_text(tmp_path):
    one = make(1, paths=False)
    name = "a\udcb8.jpg"
    image = FeatureSet(one.erased, one.related, one.ids, one.cams, one.modality, [name])
    with GalleryStore.create(tmp_path) as store:
        with pytest.raises(MixERValueError, match="no valid Unicode; give keys of your own"):
            store.add(image)
        store.add(image, [3])
        assert store.get([3])[0]["path"] == name
        assert store.search(one, 1).paths == ((name,),)


def test_ties_come_in_the_order_of_adding(tmp_path):
    one = make(1, 3, paths=False)
    same = one[torch.zeros(40, dtype=torch.int64)]
    with GalleryStore.create(tmp_path, segment=15) as store:
        for start in range(0, 40, 10):
            store.add(same[start : start + 10])
        assert store.search(one, 12).keys == (tuple(range(12)),)
        store.remove([0, 3, 11])
        store.add(same[:1], [5], upsert=True)
        left = [j for j in range(40) if j not in (0, 3, 5, 11)]
        assert store.search(one, 40).keys == ((*left, 5, None, None, None),)


def test_hits_say_what_is_known_of_the_images(tmp_path):
    gallery, query = make(30), make(5, 1)
    times = [None if i % 3 == 0 else 1000.5 + i for i in range(30)]
    payloads = [None if i % 4 == 0 else {"site": f"gate {i}", "list": [i]} for i in range(30)]
    keys = [i if i % 2 else f"image {i}" for i in range(30)]
    with GalleryStore.create(tmp_path) as store:
        assert store.add(gallery, keys, times=times, payloads=payloads) == keys
        hits = store.search(query, 40)
        known = store.get(keys)
    assert isinstance(hits, StoreHits)
    assert repr(hits) == "StoreHits(5 queries, 40 images each)"
    assert hits.change == 1
    for i, line in enumerate(hits.keys):
        assert line[30:] == (None,) * 10
        for j, key in enumerate(line[:30]):
            row = keys.index(key)
            assert hits.ids[i, j] == gallery.ids[row]
            assert hits.cams[i, j] == gallery.cams[row]
            assert hits.modality[i, j] == gallery.modality[row]
            assert hits.paths[i][j] == gallery.paths[row]
            assert hits.payloads[i][j] == payloads[row]
            np.testing.assert_equal(float(hits.times[i, j]), times[row] or float("nan"))
    assert hits.ids[:, 30:].eq(-1).all()
    assert hits.times[:, 30:].isnan().all()
    rows = hits.rows(query)
    assert len(rows) == 5 * 30
    assert rows[31]["rank"] == 2
    assert {k: v for k, v in rows[31].items() if k in known[0]} == known[
        keys.index(rows[31]["key"])
    ]


def test_keys(tmp_path):
    bare, named = make(4, paths=False), make(3, 2)
    with GalleryStore.create(tmp_path) as store:
        assert store.add(bare) == [0, 1, 2, 3]
        assert store.add(named) == list(named.paths)
        store.remove([3, 0])
        assert store.add(bare) == [4, 5, 6, 7]  # no number comes back
        assert store.add(bare[:1], np.array([20])) == [20]
        assert store.add(bare[:2]) == [21, 22]
        assert store.add(bare[:2], ["21", "ä\u4e00 b"]) == ["21", "ä\u4e00 b"]
        assert len(store) == 2 + 3 + 4 + 1 + 2 + 2
        assert [image["key"] for image in store.get([22, "21", 21])] == [22, "21", 21]
        assert store.add(bare[:0]) == []
        store.remove([])
        assert store.stats()["changes"] == 7
    with GalleryStore(tmp_path) as store:
        assert store.add(bare[:1]) == [23]


def test_the_same_file_twice_is_an_error_that_names_it(tmp_path):
    gallery = make(5)
    with GalleryStore.create(tmp_path) as store:
        store.add(gallery)
        with pytest.raises(MixERValueError, match=r"'set0/0.jpg' is in the store already"):
            store.add(gallery)
        with pytest.raises(MixERValueError, match=r"'set0/3.jpg' is in the store already"):
            store.add(FeatureSet.concatenate([make(2, 1), gallery[3:4]]))
        assert len(store) == 5
        assert store.stats()["changes"] == 1


def test_upsert_replaces(tmp_path):
    first, second, query = make(20, paths=False), make(20, 2, paths=False), make(6, 1)
    literal = Literal()
    with GalleryStore.create(tmp_path, segment=10) as store:
        literal.add(first, store.add(first, payloads=[{"v": 1}] * 20))
        some = second[:8]
        literal.add(some, store.add(some, range(12, 20), payloads=[{"v": 2}] * 8, upsert=True))
        assert len(store) == 20
        check(store.search(query, 20), literal.search(query), 20)
        assert [image["payload"]["v"] for image in store.get(range(20))] == [1] * 12 + [2] * 8
        assert store.search(query, 20, filter="payload.v == 2").keys[0][8:] == (None,) * 12


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keys": [1, 2]}, MixERValueError, "keys has 2 entries for 3 images"),
        ({"keys": [1, 2, 1]}, MixERValueError, "Key 1 is given twice"),
        ({"keys": [1, 2, 0.5]}, MixERTypeError, "whole number or a text, got 0.5"),
        ({"keys": [1, 2, True]}, MixERTypeError, "got True"),
        ({"keys": "abc"}, MixERTypeError, "put it in a list"),
        ({"keys": [1, 2, ""]}, MixERValueError, "not empty"),
        ({"keys": [1, 2, "a\0b"]}, MixERValueError, "without NUL"),
        ({"keys": [1, 2, "\udcb8"]}, MixERValueError, "no valid Unicode"),
        ({"keys": [1, 2, 2**63]}, MixERValueError, "must fit in 64 bits"),
        ({"times": [1, 2]}, MixERValueError, "times has 2 entries"),
        ({"times": [1, 2, "2026-11-28"]}, MixERTypeError, "got '2026-11-28' in row 2"),
        ({"times": [1, 2, float("inf")]}, MixERValueError, "times must be finite"),
        ({"payloads": [{}, {}]}, MixERValueError, "payloads has 2 entries"),
        ({"payloads": [{}, {}, [1]]}, MixERTypeError, "must be dictionaries or None"),
        ({"payloads": [{}, {}, {"a": {1}}]}, MixERTypeError, "what JSON can, which row 2"),
        ({"payloads": [{}, {}, {"a": float("nan")}]}, MixERTypeError, "what JSON can"),
    ],
)
def test_what_cannot_be_added_changes_nothing(tmp_path, arguments, error, message):
    with GalleryStore.create(tmp_path) as store:
        store.add(make(4, 1))
        with pytest.raises(error, match=message):
            store.add(make(3), **arguments)
        assert len(store) == 4
        assert store.stats()["changes"] == 1


def test_features_that_do_not_fit(tmp_path):
    wide = FeatureSet(np.ones((1, 5)), np.ones((1, 7)), [1], [1], [0])
    with GalleryStore.create(tmp_path / "a") as store:
        with pytest.raises(MixERValueError, match="needs related features"):
            store.add(make(3, related=False))
        store.add(make(4, 1))
        for use in (store.add, store.search):
            with pytest.raises(MixERValueError, match=r"widths \(erased, related\) \(12, 7\)"):
                use(wide)
    visible = make(40)[make(40).modality == 0]
    with GalleryStore.create(tmp_path / "b", "mixer-calibrated") as store:
        store.add(visible)
        with pytest.raises(MixERValueError, match="no statistics of cosines with infrared"):
            store.add(make(9, 1))
        assert len(store) == len(visible)


def test_searches_that_cannot_be(tmp_path):
    query = make(2, 1)
    with GalleryStore.create(tmp_path) as store:
        assert store.search(query, 3).keys == ((None,) * 3,) * 2
        store.add(make(9))
        for error, message, options in [
            (MixERValueError, "k must be at least 1", {"k": 0}),
            (MixERTypeError, "k must be a whole number", {"k": 1.5}),
            (MixERValueError, "Did you mean 'mix-cam'", {"setting": "mix-cm"}),
            (MixERValueError, "got x at character 11", {"filter": "camera == x"}),
            (MixERTypeError, "A filter must be", {"filter": 3}),
            (MixERTypeError, "threshold must be a number", {"threshold": "0.5"}),
            (MixERTypeError, "threshold must be a number", {"threshold": True}),
            (MixERValueError, "threshold must be a number", {"threshold": float("nan")}),
            (MixERValueError, "'id' or 'payload.NAME', got 'camera'", {"group_by": "camera"}),
            (MixERValueError, "Expected a field, got track", {"group_by": "track"}),
        ]:
            with pytest.raises(error, match=message):
                store.search(query, **options)
        assert store.search(make(0, 1), 3).scores.shape == (0, 3)


def test_removals_that_fail_remove_nothing(tmp_path):
    with GalleryStore.create(tmp_path) as store:
        store.add(make(5, paths=False))
        for keys, message in [
            ([1, 9], "Key 9 is not in the store; nothing was removed"),
            ([1, 1], "Key 1 is given twice"),
            ([1, "1"], "There is 1: a number is no text"),
        ]:
            with pytest.raises(MixERValueError, match=message):
                store.remove(keys)
        with pytest.raises(MixERValueError, match="Key 7 is not in the store; nothing was read"):
            store.get([7])
        assert len(store) == 5


def test_thresholds_and_groups(tmp_path):
    gallery, query = make(120, paths=False), make(10, 1)
    ids = gallery.ids.clone()
    ids[::5] = -1
    gallery = FeatureSet(gallery.erased, gallery.related, ids, gallery.cams, gallery.modality)
    payloads = [{"track": {"no": i % 9}} if i % 4 else None for i in range(120)]
    literal = Literal()
    with GalleryStore.create(tmp_path, segment=50) as store:
        literal.add(gallery, store.add(gallery, payloads=payloads), payloads=payloads)
        person = lambda item: None if item.image.ids[0] < 0 else int(item.image.ids[0])  # noqa: E731
        track = lambda item: (item.payload or {"track": {"no": None}})["track"]["no"]  # noqa: E731
        for k in (1, 4, 60):
            for name, group in (("id", person), ("payload.track.no", track), (None, None)):
                for threshold in (None, 0.0, 0.4, 9):
                    expected = literal.search(query, threshold=threshold, group=group)
                    hits = store.search(query, k, threshold=threshold, group_by=name)
                    check(hits, expected, k)
        assert len(set(store.search(query, 3, group_by="payload.none").keys[0])) == 3


@pytest.mark.parametrize("segment", [1000, 25])
def test_what_must_not_come_back(tmp_path, segment):
    gallery = make(60)
    literal = Literal()
    with GalleryStore.create(tmp_path, segment=segment) as store:
        literal.add(gallery, store.add(gallery))
        store.remove(gallery.paths[7:9])
        literal.remove(gallery.paths[7:9])
        exclude = [[path, "unknown", gallery.paths[40]] for path in gallery.paths]
        expected = [
            [pair for pair in line if pair[1] not in own]
            for line, own in zip(literal.search(gallery), exclude, strict=True)
        ]
        for k in (1, 30, 60):
            check(store.search(gallery, k, exclude=exclude), expected, k)
        hits = store.search(gallery, 5, exclude=exclude, setting="mix-cam", group_by="id")
        for i, keys in enumerate(hits.keys):
            assert not {*keys} & {*exclude[i]}
            assert (hits.cams[i] != gallery.cams[i]).all()
        with pytest.raises(MixERValueError, match="one entry per query, 60; got 2"):
            store.search(gallery, exclude=[[], []])
        with pytest.raises(MixERTypeError, match=r"put it in a list"):
            store.search(gallery[:1], exclude=["set0/1.jpg"])


def test_keys_that_are_there(tmp_path):
    gallery = make(40)
    with GalleryStore.create(tmp_path, segment=15) as store:
        assert store.keys() == []
        store.add(gallery[:20])
        store.add(gallery[20:], range(20))
        store.remove([3, gallery.paths[2]])
        assert 4 in store
        assert gallery.paths[0] in store
        assert "4" not in store
        assert 3 not in store
        names = [*gallery.paths[:20], *range(20)]
        names = [name for name in names if name not in (3, gallery.paths[2])]
        assert store.keys() == names
        kept = store.keys("camera == 2")
        assert kept == [n for n in names if store.get([n])[0]["camera"] == 2]
        assert 0 < len(kept) < 38
        with pytest.raises(MixERTypeError):
            assert 1.5 in store


def test_making_and_opening(tmp_path):
    with pytest.raises(MixERValueError, match=r"holds no store; make one with GalleryStore.create"):
        GalleryStore(tmp_path)
    for options, message in [
        ({"rule": "mixr"}, "Did you mean 'mixer'"),
        ({"rule": "mixer-shuffled"}, "shuffles"),
        ({"calibration": "znorm"}, "znorm"),
        ({"segment": 0}, "segment must be at least 1"),
        ({"parameters": "nprobe"}, "name=number"),
    ]:
        with pytest.raises(MixERValueError, match=message):
            GalleryStore.create(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()
    store = GalleryStore.create(tmp_path / "x", "erased")
    with pytest.raises(MixERValueError, match="holds a store already; open it"):
        GalleryStore.create(tmp_path / "x")
    store.close()
    with pytest.raises(MixERRuntimeError, match="The store is closed"):
        store.search(make(1))
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "store.db").write_bytes(b"not a database" * 100)
    with pytest.raises(MixERValueError, match="is damaged"):
        GalleryStore(tmp_path / "y")
    (tmp_path / "y" / "store.db").write_bytes(b"")
    with pytest.raises(MixERValueError, match="holds no store"):
        GalleryStore(tmp_path / "y")
    GalleryStore.create(tmp_path / "y").close()


def test_the_index_refuses_two_at_once_and_the_same_twice():
    pytest.importorskip("faiss")
    index = MixedModalIndex.build(make(5), device="cpu")
    with pytest.raises(MixERValueError, match="is in the index already"):
        index.add(make(5))
    with index._turns.change(), pytest.raises(MixERRuntimeError, match="Another thread changes"):
        index.search(make(1, 1))


@pytest.mark.parametrize(
    ("rule", "calibration"),
    [("mixer", None), ("mixer", "center")]
    + [(rule, None) for rule in ("erased", "related", "mixer-calibrated")],
)
def test_stored_images_ask_as_their_own_features_do(tmp_path, rule, calibration):
    images = make(60, paths=False)
    with GalleryStore.create(tmp_path / "s", rule=rule, calibration=calibration) as store:
        store.add(images[:40])
        store.add(images[40:])
        keys = [59, 3, 41, 0]
        mine = store.features(keys)
        assert mine.ids.tolist() == images.ids[keys].tolist()
        assert mine.cams.tolist() == images.cams[keys].tolist()
        expected = store.search(images[keys], 60)
        found = store.search(mine, 60)
        torch.testing.assert_close(found.scores, expected.scores, atol=5e-6, rtol=0)
        with pytest.raises(MixERValueError, match="no key"):
            store.features([])
        with pytest.raises(MixERValueError, match="'x' is not in the store"):
            store.features(["x"])


def test_the_first_keys(tmp_path):
    with GalleryStore.create(tmp_path / "s") as store:
        store.add(make(9, paths=False))
        assert store.keys(limit=4) == [0, 1, 2, 3]
        assert store.keys("key in (3, 5, 7)", limit=2) == [3, 5]
        assert store.images("key in (3, 5, 7)", limit=2) == store.get([3, 5])
        with pytest.raises(MixERValueError, match="limit must be at least 1"):
            store.keys(limit=0)
