from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.sysu_features import load_sysu_mat


def make(count=6, related=True, paths=True, seed=0):
    rng = np.random.default_rng(seed)
    return FeatureSet(
        erased=rng.normal(size=(count, 4)),
        related=rng.normal(size=(count, 3)) if related else None,
        ids=np.arange(count) // 2,
        cams=np.arange(count) % 3 + 1,
        modality=np.arange(count) % 2,
        paths=tuple(f"cam1/0001/{i:04d}.jpg" for i in range(count)) if paths else None,
    )


def assert_same(one, two):
    for name in ("erased", "related", "ids", "cams", "modality"):
        mine, theirs = getattr(one, name), getattr(two, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs), name
    assert one.paths == two.paths


def test_arrays_and_tensors_are_converted():
    features = FeatureSet(
        erased=np.ones((2, 3), dtype=np.float16),
        related=torch.ones(2, 5, dtype=torch.bfloat16),
        ids=np.array([1, 2], dtype=np.uint16),
        cams=[3, 6],
        modality=[Modality.INFRARED, Modality.VISIBLE],
        paths=["a", "b"],
    )
    assert features.erased.dtype == features.related.dtype == torch.float32
    assert features.ids.dtype == features.cams.dtype == features.modality.dtype == torch.int64
    assert features.modality.tolist() == [1, 0]
    assert features.paths == ("a", "b")
    assert len(features) == 2


def test_fields_are_copies():
    erased, ids = np.ones((2, 3), dtype=np.float32), torch.tensor([1, 2])
    features = FeatureSet(erased, None, ids, [1, 1], [0, 1])
    erased[:] = 7
    ids[:] = 7
    assert features.erased.eq(1).all()
    assert features.ids.tolist() == [1, 2]


def test_gradients_are_cut():
    erased = torch.ones(2, 3, requires_grad=True)
    assert not FeatureSet(erased, None, [1, 2], [1, 1], [0, 1]).erased.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"erased": np.ones(6)}, r"erased must be \[images, width\]"),
        ({"erased": np.ones((6, 0))}, r"erased must be \[images, width\]"),
        ({"erased": np.ones((5, 4))}, "related has 6 rows, but erased has 5"),
        ({"erased": np.where(np.eye(6, 4) > 0, np.nan, 1.0)}, "not finite .* in 4 of 6 rows"),
        ({"related": np.full((6, 3), np.inf)}, "related holds values that are not finite"),
        ({"erased": np.full((6, 4), 1e300)}, "not finite"),
        ({"ids": np.arange(5)}, "ids has 5 rows"),
        ({"ids": np.arange(6) + 0.5}, "whole numbers, got 0.5"),
        ({"cams": np.ones((6, 1))}, "cams must have one entry per image"),
        ({"modality": [0, 1, 2, 0, 1, 2]}, r"modality must be 0 .* got \[2\]"),
        ({"paths": ("a",)}, "paths has 1 rows"),
    ],
)
def test_wrong_values_are_refused(change, message):
    plain = make()
    values = {name: getattr(plain, name) for name in ("erased", "related", "ids", "cams")}
    values |= {"modality": plain.modality, "paths": plain.paths} | change
    with pytest.raises(MixERValueError, match=message):
        FeatureSet(**values)


@pytest.mark.parametrize(
    "change", [{"erased": [["a"]]}, {"erased": np.ones((6, 4), dtype=complex)}, {"paths": "abcdef"}]
)
def test_wrong_kinds_are_refused(change):
    plain = make()
    values = {name: getattr(plain, name) for name in ("erased", "related", "ids", "cams")}
    values |= {"modality": plain.modality, "paths": None} | change
    with pytest.raises(MixERTypeError):
        FeatureSet(**values)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 5, 2), [1, 3]),
        (torch.tensor([4, 0, 0, -1]), [4, 0, 0, 5]),
        (torch.tensor([True, False, False, False, False, True]), [0, 5]),
        (np.array([2]), [2]),
        ([3, 1], [3, 1]),
        ([], []),
    ],
)
def test_indexing(index, rows):
    features = make()
    part = features[index]
    assert torch.equal(part.erased, features.erased[rows])
    assert torch.equal(part.related, features.related[rows])
    assert part.ids.tolist() == [features.ids.tolist()[row] for row in rows]
    assert part.paths == tuple(features.paths[row] for row in rows)


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (3, MixERTypeError),
        ("a", MixERTypeError),
        (torch.tensor([0.5]), MixERTypeError),
        (torch.tensor([6]), MixERValueError),
        (torch.tensor([True, False]), MixERValueError),
    ],
)
def test_wrong_indices_are_refused(index, error):
    with pytest.raises(error):
        make()[index]


@pytest.mark.parametrize("related", [True, False])
@pytest.mark.parametrize("paths", [True, False])
def test_saved_and_loaded_are_equal(tmp_path, related, paths):
    features = make(related=related, paths=paths)
    features.save(tmp_path / "features.npz")
    assert_same(FeatureSet.load(tmp_path / "features.npz"), features)
    assert [path.name for path in tmp_path.iterdir()] == ["features.npz"]
    with np.load(tmp_path / "features.npz", allow_pickle=False) as content:
        assert content["erased"].dtype == np.float32


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "features.npz"
    make().save(target)
    before = target.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        make(seed=1).save(target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["features.npz"]


def test_saving_into_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(MixERValueError, match="not a folder"):
        make().save(tmp_path / "none" / "features.npz")


def test_files_that_cannot_be_features_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(MixERValueError, match="not a file"):
        FeatureSet.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(MixERValueError, match=r"not an \.npz of plain arrays"):
        FeatureSet.load(path)
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(MixERValueError, match="one array"):
        FeatureSet.load(tmp_path / "x.npy")
    np.savez(path, erased=np.ones((2, 2)), ids=np.ones(2))
    with pytest.raises(MixERValueError, match="lacks cams, modality; it holds erased, ids"):
        FeatureSet.load(path)
    np.savez(path, erased=np.array([{}], dtype=object), ids=[1], cams=[1], modality=[1])
    with pytest.raises(MixERValueError, match=r"not an \.npz of plain arrays"):
        FeatureSet.load(path)


def test_concatenation():
    one, two = make(4), make(2, seed=1)
    joined = FeatureSet.concatenate([one, two])
    assert len(joined) == 6
    assert_same(joined[:4], one)
    assert_same(joined[4:], two)
    assert FeatureSet.concatenate([one, make(2, paths=False)]).paths is None
    assert FeatureSet.concatenate([make(related=False), make(related=False)]).related is None
    with pytest.raises(MixERValueError, match="same widths"):
        FeatureSet.concatenate([one, make(related=False)])
    with pytest.raises(MixERValueError, match="at least one"):
        FeatureSet.concatenate([])


def write_mats(folder, name="feat", scale=1.0):
    scipy_io = pytest.importorskip("scipy.io")
    for cam in (1, 3):
        cell = np.empty((1, 4), dtype=object)
        for identity in range(4):
            # identity 1 has no image; identity i has i images in camera 1, one in camera 3
            count = identity if cam == 1 else min(identity, 1)
            cell[0, identity] = scale * np.full((count, 2), 10 * cam + identity + 1.0)
        scipy_io.savemat(folder / f"{name}_cam{cam}.mat", {"feature": cell})


def test_sysu_mat_features(tmp_path):
    write_mats(tmp_path)
    features = load_sysu_mat(tmp_path)
    for source in (tmp_path, tmp_path / "feat_cam1.mat"):
        assert torch.equal(FeatureSet.load(source).erased, features.erased)
    assert features.paths[:3] == (
        "cam1/0002/0001.jpg",
        "cam1/0003/0001.jpg",
        "cam1/0003/0002.jpg",
    )
    assert features.ids.tolist() == [2, 3, 3, 4, 4, 4, 2, 3, 4]
    assert features.cams.tolist() == [1] * 6 + [3] * 3
    assert features.modality.tolist() == [0] * 6 + [1] * 3
    assert features.erased[:, 0].tolist() == [12, 13, 13, 14, 14, 14, 32, 33, 34]
    assert features.related is None
    assert load_sysu_mat(tmp_path, ids=[3]).ids.tolist() == [3, 3, 3]


def test_sysu_mat_features_with_related(tmp_path):
    write_mats(tmp_path)
    write_mats(tmp_path, "other", scale=2.0)
    with pytest.raises(MixERValueError, match="holds feat, other"):
        load_sysu_mat(tmp_path)
    features = load_sysu_mat(tmp_path / "feat_cam1.mat", related=tmp_path / "other_cam3.mat")
    assert torch.equal(features.related, 2 * features.erased)
    (tmp_path / "other_cam3.mat").unlink()
    with pytest.raises(MixERValueError, match="other images"):
        load_sysu_mat(tmp_path / "feat_cam1.mat", related=tmp_path / "other_cam1.mat")


def test_sysu_mat_files_that_cannot_be_read(tmp_path):
    with pytest.raises(MixERValueError, match="holds none"):
        load_sysu_mat(tmp_path)
    with pytest.raises(MixERValueError, match="neither a folder nor"):
        load_sysu_mat(tmp_path / "none")
    (tmp_path / "feat_cam1.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(200))
    pytest.importorskip("scipy.io")
    with pytest.raises(MixERValueError, match="not a MATLAB 5 file"):
        load_sysu_mat(tmp_path)
