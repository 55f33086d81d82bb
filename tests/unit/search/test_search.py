from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet
from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.evaluation.settings import SETTINGS
from mixer_plugin.search import Hits, MixedModalIndex
from tests.search_cases import build, check, make, ranked

pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")

RULES = ("mixer", "fused", "erased", "related", "dev-sum", "dev-switch")


@pytest.mark.parametrize("calibration", [None, "center"])
@pytest.mark.parametrize("rule", RULES)
def test_flat_is_the_sorted_scores(rule, calibration):
    gallery, query = make(150), make(40, 1)
    index = build(gallery, rule, calibration=calibration)
    expected = ranked(query, gallery, rule, calibration)
    for k in (1, 10, 149, 150, 200):
        hits = check(index.search(query, k), expected, k)
        count = min(k, 150)
        assert hits.keys[:, :count].tolist() == [[j for _, j in row[:count]] for row in expected]


def test_hits_say_what_is_known_of_the_images():
    gallery, query = make(30), make(5, 1)
    hits = build(gallery).search(query, 40)
    assert isinstance(hits, Hits)
    assert len(hits) == 5
    assert repr(hits) == "Hits(5 queries, 40 images each)"
    for field in ("ids", "cams", "modality"):
        values = getattr(hits, field)
        assert values[:, 30:].eq(-1).all()
        assert torch.equal(values[:, :30], getattr(gallery, field)[hits.keys[:, :30]])
    assert [[gallery.paths[key] for key in row[:30]] for row in hits.keys.tolist()] == [
        list(row[:30]) for row in hits.paths
    ]
    assert all(row[30:] == (None,) * 10 for row in hits.paths)
    assert build(make(30, paths=False)).search(query).paths is None


def test_keys_go_on_and_are_never_given_out_again():
    parts = [make(20), make(15, 1), make(10, 2)]
    index = MixedModalIndex(device="cpu")
    assert len(index) == 0
    assert index.add(parts[0]).tolist() == list(range(20))
    assert index.add(parts[1]).tolist() == list(range(20, 35))
    index.remove([3, 34])
    index.remove(torch.tensor([0]))
    assert index.add(parts[2]).tolist() == list(range(35, 45))
    assert len(index) == 42
    assert index.total == 45
    assert index.keys.tolist() == [j for j in range(45) if j not in (0, 3, 34)]
    query, whole = make(9, 5), FeatureSet.concatenate(parts)
    gone = np.zeros((9, 45), dtype=bool)
    gone[:, [0, 3, 34]] = True
    check(index.search(query, 45), ranked(query, whole, forbidden=gone), 45)
    assert index.keys_of([whole.paths[1], whole.paths[3], "nowhere"]) == [[1], [], []]
    index.remove(index.keys)
    assert len(index) == 0
    assert index.search(query, 3).keys.eq(-1).all()


@pytest.mark.parametrize("keys", [[1, 99], [1, -1], [1, 1], [1, 4]])
def test_a_removal_that_fails_removes_nothing(keys):
    index = build(make(20))
    index.remove([4])
    with pytest.raises(MixERValueError, match="nothing was removed"):
        index.remove(keys)
    assert len(index) == 19
    with pytest.raises(MixERTypeError):
        index.remove([0.5])


def test_ties_come_in_the_order_of_adding_also_at_the_end_of_a_list():
    count = 400  # more than are fetched at first
    features = FeatureSet(
        np.ones((count, 4)), None, np.arange(count), np.ones(count), np.arange(count) % 2
    )
    index = build(features, "erased")
    for k in (1, 7, 100):
        assert index.search(features[:3], k).keys.tolist() == [list(range(k))] * 3
    index.remove(range(50))
    assert index.search(features[:1], 5).keys.tolist() == [[50, 51, 52, 53, 54]]


def test_zero_vectors_and_one_modality():
    gallery = make(20)
    zero = FeatureSet(
        torch.zeros(2, 12), torch.zeros(2, 7), [1, 2], [1, 1], [0, 1], ["zero/0", "zero/1"]
    )
    both = FeatureSet.concatenate([gallery, zero])
    check(build(both).search(both, 22), ranked(both, both), 22)
    assert build(both).search(zero, 4).keys.tolist() == [[0, 1, 2, 3]] * 2
    visible = gallery[gallery.modality == 0]
    check(build(visible).search(both, 30), ranked(both, visible), 30)


def test_an_empty_gallery_and_no_query():
    query = make(3)
    for index in (MixedModalIndex(device="cpu"), build(query[:0])):
        hits = index.search(query, 2)
        assert hits.keys.tolist() == [[-1, -1]] * 3
        assert hits.ids.tolist() == [[-1, -1]] * 3
        assert hits.rows(query) == []
    assert build(query).search(query[:0], 2).keys.shape == (0, 2)


@pytest.mark.parametrize("form", ["lists", "padded", "mask", "one each"])
def test_excluded_keys_do_not_come_back(form):
    gallery, query = make(120), make(15, 1)
    best = build(gallery).search(query, 120).keys
    lengths = [1] * 15 if form == "one each" else [(i * 7) % 110 for i in range(15)]
    forbidden = torch.zeros(15, 120, dtype=torch.bool)
    for i, length in enumerate(lengths):
        forbidden[i, best[i, :length]] = True
    exclude = {
        "lists": [best[i, :length].tolist() for i, length in enumerate(lengths)],
        "padded": best.where(torch.arange(120) < torch.tensor(lengths)[:, None], -1),
        "mask": forbidden,
        "one each": best[:, 0],
    }[form]
    index = build(gallery)
    for k in (1, 10, 120):
        check(
            index.search(query, k, exclude=exclude),
            ranked(query, gallery, "mixer", None, forbidden.tolist()),
            k,
        )


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_leave_out_what_the_evaluation_does(setting):
    gallery = make(150)
    own = torch.arange(150)
    expected = []
    for i in range(150):
        row = []
        for j in range(150):
            same_modality = bool(gallery.modality[i] == gallery.modality[j])
            same_camera = bool(gallery.cams[i] == gallery.cams[j])
            same_id = bool(gallery.ids[i] == gallery.ids[j])
            out = {
                "cross": same_modality,
                "mix": False,
                "mix-cam": same_camera,
                "mix-cam-id": same_camera and same_id,
                "mix-id": same_modality and same_id,
                "uni": not same_modality or same_camera,
            }[setting]
            row.append(out or i == j)
        expected.append(row)
    hits = build(gallery).search(gallery, 12, exclude=own, setting=setting)
    check(hits, ranked(gallery, gallery, forbidden=expected), 12)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_with_cameras_that_come_later(setting, tmp_path):
    """Cameras unsorted over several adds, gone with removed images, or of queries alone."""
    parts, query = [make(30, seed) for seed in range(3)], make(20, 7)
    for part, moved in zip((*parts, query), (5, 0, 2, 4), strict=True):
        part.cams.add_(moved)
    index = MixedModalIndex(device="cpu")
    for part in parts:
        index.add(part)
    gallery = FeatureSet.concatenate(parts)
    gone = (gallery.cams == 1).nonzero().flatten()
    index.remove(gone)
    index.save(tmp_path / "x")
    known = {*zip(gallery.modality.tolist(), gallery.cams.tolist(), strict=True)}
    known |= {*zip(query.modality.tolist(), query.cams.tolist(), strict=True)}
    forbidden = torch.zeros(20, 90, dtype=torch.bool)
    forbidden[:, gone] = True
    for i in range(20):
        several = sum(m == query.modality[i] for m, _ in known) > 1
        for j in range(90):
            same_modality = bool(query.modality[i] == gallery.modality[j])
            same_camera = bool(query.cams[i] == gallery.cams[j])
            same_id = bool(query.ids[i] == gallery.ids[j])
            forbidden[i, j] |= {
                "cross": same_modality,
                "mix": False,
                "mix-cam": same_camera,
                "mix-cam-id": same_camera and same_id,
                "mix-id": same_modality and same_id,
                "uni": not same_modality or (same_camera and several),
            }[setting]
    expected = ranked(query, gallery, forbidden=forbidden.tolist())
    for each in (index, MixedModalIndex.load(tmp_path / "x", device="cpu")):
        check(each.search(query, 90, setting=setting), expected, 90)


@pytest.mark.parametrize(
    ("exclude", "error", "message"),
    [
        ([[0]], MixERValueError, "one entry per query, 3; got 1"),
        ([[0], [20], [1]], MixERValueError, "Key 20 to exclude is unknown"),
        ([[0], [-2], [1]], MixERValueError, "Key -2"),
        (np.zeros((3, 19), dtype=bool), MixERValueError, r"\(3, 20\), got \(3, 19\)"),
        ([[0.5], [], []], MixERTypeError, "whole numbers"),
        ("abc", MixERTypeError, "got 'abc'"),
        (7, MixERTypeError, "got 7"),
    ],
)
def test_exclusions_that_do_not_fit(exclude, error, message):
    with pytest.raises(error, match=message):
        build(make(20)).search(make(3, 1), 2, exclude=exclude)


def test_arguments_that_cannot_be():
    gallery = make(20)
    index = build(gallery)
    for k, error in ((0, MixERValueError), (-1, MixERValueError), (2.5, MixERTypeError)):
        with pytest.raises(error, match="k must"):
            index.search(gallery, k)
    with pytest.raises(MixERValueError, match="Did you mean 'mix-cam'"):
        index.search(gallery, setting="mix_cam")
    with pytest.raises(MixERValueError, match="Did you mean 'mixer'"):
        MixedModalIndex("mixr")
    with pytest.raises(MixERValueError, match="control for evaluate"):
        MixedModalIndex("mixer-shuffled")
    with pytest.raises(MixERValueError, match="whole gallery"):
        MixedModalIndex(calibration="znorm")
    with pytest.raises(MixERValueError, match="Did you mean 'center'"):
        MixedModalIndex(calibration="centre")
    with pytest.raises(MixERValueError, match="auto, cpu, cuda"):
        MixedModalIndex(device="gpu")
    with pytest.raises(MixERValueError, match="related=None"):
        index.search(make(3, related=False))
    with pytest.raises(MixERValueError, match=r"\(12, 7\), these have \(11, 7\)"):
        index.search(FeatureSet(gallery.erased[:, 1:], gallery.related, *[[0] * 20] * 3))
    with pytest.raises(MixERValueError, match="have no paths"):
        build(make(5, paths=False)).keys_of(["a"])


def test_a_set_that_does_not_fit_changes_nothing():
    index = build(make(20))
    before = index.search(make(4, 1), 20).keys
    for bad, message in (
        (make(5, 1, related=False), "related=None"),
        (make(5, 1, paths=False), "have none; give both or neither"),
    ):
        with pytest.raises(MixERValueError, match=message):
            index.add(bad)
    assert len(index) == index.total == 20
    assert torch.equal(index.search(make(4, 1), 20).keys, before)


def test_rule_erased_needs_and_keeps_no_related_feature():
    gallery, query = make(20, related=False), make(4, 1)
    index = build(gallery, "erased")
    bare = FeatureSet(query.erased, None, query.ids, query.cams, query.modality)
    check(index.search(query, 20), ranked(bare, gallery, "erased"), 20)
    assert {part.index.d for part in index._parts.values()} == {12}


def test_only_halves_that_count_are_stored():
    widths = {
        rule: {m: part.index.d for m, part in build(make(20), rule)._parts.items()}
        for rule in RULES
    }
    assert widths == {
        "mixer": {0: 19, 1: 19},
        "fused": {0: 19, 1: 19},
        "erased": {0: 12, 1: 12},
        "related": {0: 7, 1: 7},
        "dev-sum": {0: 12, 1: 19},
        "dev-switch": {0: 12, 1: 19},
    }


def test_center_keeps_the_means_of_the_first_set():
    first, more, query = make(60), make(30, 1), make(10, 2)
    index = build(first, calibration="center")
    before = index.search(query, 60)
    index.add(more)
    hits = index.search(query, 90)
    for i in range(10):
        known = dict(zip(before.keys[i].tolist(), before.scores[i].tolist(), strict=True))
        for key, score in zip(hits.keys[i].tolist(), hits.scores[i].tolist(), strict=True):
            assert key >= 60 or score == pytest.approx(known[key], abs=1e-6)
    infrared = first[first.modality == 1]
    index = build(infrared, calibration="center")
    for call in (index.add, index.search):
        with pytest.raises(MixERValueError, match="no mean for visible images"):
            call(query)
    assert len(index) == len(infrared)
