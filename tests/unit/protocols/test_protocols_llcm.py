"""LLCM: the public scripts' draw, and counts on labels of the released sizes."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.features import FeatureSet
from tests.unit.protocols.test_protocols import list_counts

VISIBLE, INFRARED = (1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 4, 5, 6, 7, 8, 9)


def labelled(ids, cams, modality, paths=None):
    features = np.random.default_rng(0).normal(size=(len(ids), 2, 4))
    return FeatureSet(features[:, 0], features[:, 1], ids, cams, modality, paths)


@pytest.fixture(scope="module")
def released():
    """351 identities, 8,680 visible images, 7,166 infrared ones of 619 identities and cameras."""
    rng = np.random.default_rng(0)
    rows = []
    for modality, cameras, images, pairs in ((0, VISIBLE, 8680, 1000), (1, INFRARED, 7166, 619)):
        shares = [pairs // 351 + (i < pairs % 351) for i in range(351)]
        keys = [
            (i + 1, cam)
            for i, share in enumerate(shares)
            for cam in sorted(rng.choice(cameras, share, replace=False).tolist())
        ]
        assert len(keys) == pairs
        rows.extend((*keys[place % pairs], modality) for place in range(images))
    return labelled(*np.array(rows).T)


def test_counts_of_the_released_size(released):
    protocol = get_protocol("llcm/sampled")
    text = protocol.describe(released)
    assert "(7166 infrared, 8680 visible; 351 identities in all)" in text
    assert "release" not in text
    assert "8679 visible images (8680)" in protocol.describe(released[1:])
    draws = protocol.draws(released)
    assert len(draws) == 10
    labels = np.stack([released.modality, released.ids, released.cams])
    for draw in draws:
        assert int((labels[0, draw] == 1).sum()) == 619
        assert int((labels[0, draw] == 0).sum()) == 1000
        assert np.unique(labels[:, draw], axis=1).shape[1] == len(draw)
    assert len({draw.tobytes() for draw in draws}) == 10
    assert len(get_protocol("llcm/full").draws(released)[0]) == 15846
    assert "release" not in get_protocol("llcm/full").describe(released)


@pytest.mark.parametrize(("query", "gallery"), [(0, 1), (1, 0)])
def test_cross_removes_the_identity_in_its_camera(released, query, gallery):
    protocol = get_protocol("llcm/sampled")
    ids, cams, modality = (x.numpy() for x in (released.ids, released.cams, released.modality))
    draw = protocol.draws(released, 1)[0]
    draw = draw[modality[draw] == gallery]
    positives, items = list_counts(protocol, released, "cross", query)
    every, _ = list_counts(get_protocol("llcm/full"), released, "cross", query)
    removed = 0
    for place, row in enumerate(np.flatnonzero(modality == query).tolist()):
        same = ids[draw] == ids[row]
        own = same & (cams[draw] == cams[row])
        removed += own.sum()
        assert positives[place] == (same & ~own).sum()
        assert items[place] == len(draw) - own.sum()
        assert every[place] == ((modality == gallery) & (ids == ids[row])).sum()
    assert removed > 0


def test_any_id_removes_the_camera_of_both_modalities(released):
    protocol = get_protocol("llcm/sampled", same_camera="any-id")
    cams, modality = released.cams.numpy(), released.modality.numpy()
    draw = protocol.draws(released, 1)[0]
    held = cams[draw[modality[draw] == 0]]
    _, items = list_counts(protocol, released, "cross", 1)
    assert items.tolist() == [(held != cam).sum() for cam in cams[modality == 1]]


def write_layout(root, seed=3):
    """Test folders as released, with gaps: not every identity is in every camera."""
    rng = random.Random(seed)
    identities = [3, 12, 351, 1063]
    folders = [f"test_vis/cam{c}" for c in VISIBLE] + [f"test_nir/cam{c}" for c in INFRARED]
    for folder in folders:
        for identity in rng.sample(identities, 3):
            place = root / folder / f"{identity:04d}"
            place.mkdir(parents=True)
            for _ in range(rng.randint(1, 5)):
                name = (
                    f"{identity:04d}_c0{folder[-1]}_s{rng.randint(0, 10**6)}_f{rng.randint(0, 9)}"
                )
                (place / f"{name}_{folder[5:8]}.jpg").write_bytes(b"")
    return identities


def features_of(root):
    paths = sorted(str(path) for path in root.rglob("*.jpg"))
    random.Random(0).shuffle(paths)
    folders = [path.split(os.sep)[-4:-1] for path in paths]
    return labelled(
        [int(identity) for _, _, identity in folders],
        [int(cam[3:]) for _, cam, _ in folders],
        [int(kind == "test_nir") for kind, _, _ in folders],
        paths,
    )


def test_draw_is_the_public_scripts_draw(tmp_path):
    identities = write_layout(tmp_path)
    features = features_of(tmp_path)
    before = random.getstate()
    draws = get_protocol("llcm/sampled").draws(features)
    assert random.getstate() == before
    for trial, draw in enumerate(draws):
        expected = []
        for kind, cameras in (("test_vis", VISIBLE), ("test_nir", INFRARED)):
            random.seed(trial)
            for identity in sorted(f"{i:04d}" for i in identities):
                for cam in cameras:
                    folder = tmp_path / kind / f"cam{cam}" / identity
                    if folder.is_dir():
                        expected.append(random.choice(sorted(str(f) for f in folder.iterdir())))
        assert sorted(features.paths[row] for row in draw) == sorted(expected)
    random.setstate(before)


def test_cameras_that_are_not_llcms_are_refused_where_they_are_drawn_by():
    # One made-up camera per modality, as codebases give that test on every image.
    features = labelled([1, 1, 2, 2], [2, 3, 2, 3], [0, 1, 0, 1])
    for call in ("draws", "check"):
        with pytest.raises(MixERValueError, match="the features have camera 3 infrared"):
            getattr(get_protocol("llcm/sampled"), call)(features)
    protocol = get_protocol("llcm/full")
    protocol.check(features)
    assert len(protocol.draws(features)[0]) == 4
    row = evaluate(features, protocol, settings=("cross",), rules=("erased",)).rows[0]
    assert (row.queries_valid, row.mean_positives, row.trials) == (2, 1, 1)
