"""SYSU-MM01's known counts, from the permutation file alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mixer_plugin.evaluation import SETTINGS, evaluate, get_protocol
from mixer_plugin.evaluation.protocols.gallery_draws import read_permutation
from tests.unit.protocols.test_protocols import from_counts, list_counts

SYSU = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "sysu"
PERMUTATION = SYSU / "rand_perm_cam.mat"


@pytest.fixture(scope="module")
def official():
    scipy_io = pytest.importorskip("scipy.io")
    if not PERMUTATION.is_file():
        pytest.skip(f"the official permutation is not at {PERMUTATION}")
    permutation = read_permutation(PERMUTATION)
    test = scipy_io.loadmat(SYSU / "test_id.mat")["id"].reshape(-1).tolist()
    return permutation, from_counts(images_of(permutation, test))


def images_of(permutation, identities):
    """{(camera, identity): number of images}."""
    return {
        (cam, i): permutation[cam][i].shape[1]
        for cam in range(1, 7)
        for i in identities
        if i in permutation[cam]
    }


def by_camera(images):
    """Per camera the numbers of identities and of images."""
    counts = [[count for (cam, _), count in images.items() if cam == c] for c in range(1, 7)]
    return [(len(each), sum(each)) for each in counts]


def test_counts_per_camera(official):
    permutation, features = official
    scipy_io = pytest.importorskip("scipy.io")
    every = images_of(permutation, sorted(set().union(*permutation.values())))
    whole = [(259, 6289), (259, 7528), (486, 9812), (493, 8030), (502, 8224), (299, 5980)]
    assert by_camera(every) == whole
    train = scipy_io.loadmat(SYSU / "train_id.mat")["id"].reshape(-1).tolist()
    assert len(train) == 296
    trained = by_camera(images_of(permutation, train))
    assert trained == [(194, 4721), (195, 5753), (293, 5929), (283, 4821), (294, 4989), (200, 4000)]
    test = images_of(permutation, sorted(set(features.ids.tolist())))
    tested = [(56, 1374), (56, 1565), (93, 1883), (94, 1918), (95, 1918), (96, 1920)]
    assert by_camera(test) == tested
    assert not set(train) & set(features.ids.tolist())
    for counts, visible, infrared in [
        (whole, 30071, 15792),
        (trained, 20284, 9929),
        (tested, 6775, 3803),
    ]:
        images = [count for _, count in counts]
        assert sum(images[c - 1] for c in (1, 2, 4, 5)) == visible
        assert sum(images[c - 1] for c in (3, 6)) == infrared
    # So few that no draw of ten falls short.
    assert min(test.values()) == 13


MIXED = [
    # setting, co-location, infrared queries: positives and list; visible ones
    ("mix", False, (5.11, 490), (5.48, 490)),
    ("mix-cam", False, (4.11, 395.5), (4.48, 412.2)),
    ("mix-cam", True, (3.83, 367.8), (4.26, None)),
    ("mix-cam-id", False, (4.11, 489), (4.48, 489)),
    ("mix-cam-id", True, (3.83, 488.7), (4.26, None)),
    ("mix-id", False, (3.13, 488.0), (1.97, 486.5)),
]


@pytest.mark.parametrize(("setting", "together", "infrared", "visible"), MIXED)
def test_official_mixed_lists(official, setting, together, infrared, visible):
    permutation, features = official
    protocol = get_protocol("sysu/all/single", permutation=permutation, colocated_mixed=together)
    for modality, expected in ((0, visible), (1, infrared)):
        counts = list_counts(protocol, features, setting, modality, with_query=True)
        positives, items = (count.mean() for count in counts)
        assert positives == pytest.approx(expected[0], abs=5e-3)
        if expected[1] is not None:
            assert items == pytest.approx(expected[1], abs=5e-2)
        assert counts[0].min() > 0


def test_the_release_needs_no_note(official):
    permutation, features = official
    protocol = get_protocol("sysu/all/single", permutation=permutation)
    assert "release" not in protocol.describe(features)
    assert "1373 images of camera 1 (1374)" in protocol.describe(features[1:])


def test_official_test_set(official):
    _, features = official
    assert int((features.modality == 0).sum()) == 6775
    assert int((features.modality == 1).sum()) == 3803
    assert len(set(features.ids.tolist())) == 96


@pytest.mark.parametrize(
    ("search", "shots", "cross", "infrared"),
    [
        ("all", 1, 301, 189),
        ("all", 10, 3010, 1890),
        ("indoor", 1, 112, 189),
        ("indoor", 10, 1120, 1890),
    ],
)
def test_official_gallery_sizes(official, search, shots, cross, infrared):
    permutation, features = official
    name = f"sysu/{search}/{'single' if shots == 1 else 'multi'}"
    draws = get_protocol(name, permutation=permutation).draws(features)
    assert len(draws) == 10
    for trial, draw in enumerate(draws):
        chosen = features[torch.from_numpy(draw)]
        assert int((chosen.modality == 0).sum()) == cross
        assert int((chosen.modality == 1).sum()) == infrared
        drawn = {}
        for path in chosen.paths:
            cam, i, n = path.removesuffix(".jpg").split("/")[-3:]
            drawn.setdefault((int(cam[3:]), int(i)), set()).add(int(n))
        for (cam, i), numbers in drawn.items():
            assert numbers == set(permutation[cam][i][trial, :shots].tolist())


def test_official_valid_queries_and_positives(official):
    permutation, features = official
    protocol = get_protocol("sysu/all/single", permutation=permutation)
    results = evaluate(features, protocol, rules=("erased",), query="both", trials=1)
    row = {(r.setting, r.query): r for r in results.rows}
    sizes = {s: row[s, "infrared"].gallery_size for s in SETTINGS}
    assert sizes == {s: 490 for s in SETTINGS} | {"cross": 301, "uni": 189}
    assert row["cross", "visible"].gallery_size == 189
    for setting in ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id"):
        assert row[setting, "infrared"].queries_valid == 3803
    for setting in ("mix", "mix-cam", "mix-cam-id", "mix-id"):
        assert row[setting, "visible"].queries_valid == 6775
    # Three identities are not in camera 3: their images of camera 6 find nothing within infrared.
    assert row["uni", "infrared"].queries_valid == 3743
    assert row["uni", "visible"].queries_valid == 6735
    # Positives per query with the query's own image counted are 5.11 (infrared) and 5.48
    # (visible); a query is in the gallery 189 times in 3,803, 301 times in 6,775.
    assert row["mix", "infrared"].mean_positives == pytest.approx(5.11 - 189 / 3803, abs=5e-3)
    assert row["mix", "visible"].mean_positives == pytest.approx(5.48 - 301 / 6775, abs=5e-3)
    for setting, infrared, visible in [("mix-cam", 4.11, 4.48), ("mix-id", 3.13, 1.97)]:
        assert row[setting, "infrared"].mean_positives == pytest.approx(infrared, abs=5e-3)
        assert row[setting, "visible"].mean_positives == pytest.approx(visible, abs=5e-3)
    same = row["mix-cam-id", "infrared"].mean_positives
    assert same == row["mix-cam", "infrared"].mean_positives
    together = get_protocol("sysu/all/single", permutation=permutation, colocated_mixed=True)
    moved = evaluate(features, together, rules=("erased",), query="both", trials=1)
    for setting in ("mix-cam", "mix-cam-id"):
        one, two = (moved.get(setting, "erased", query=q) for q in ("infrared", "visible"))
        assert one.mean_positives == pytest.approx(3.83, abs=5e-3)
        assert two.mean_positives == pytest.approx(4.26, abs=5e-3)
    for setting in ("cross", "mix", "mix-id", "uni"):
        one, two = (r.get(setting, "erased", query="infrared") for r in (moved, results))
        assert one.mAP == two.mAP


def test_official_indoor_queries(official):
    _, features = official
    protocol = get_protocol("sysu/indoor/single", permutation=PERMUTATION)
    results = evaluate(features, protocol, rules=("erased",), settings=("cross",), trials=2)
    at, ap = results.per_query_ap["cross", "erased", "infrared", None]
    assert len(at) == 3803
    valid = features[torch.from_numpy(at[~np.isnan(ap)])]
    assert results.rows[0].queries_valid == len(valid) == 2208
    assert results.rows[0].queries_dropped == 3803 - 2208
    assert int((valid.cams == 3).sum()) == 1088
    assert int((valid.cams == 6).sum()) == 1120
    assert len(set(valid.ids[valid.cams == 3].tolist())) == 54
    assert len(set(valid.ids.tolist())) == 56
