"""SYSU-MM01's per-camera ``.mat`` features, as MATLAB 5 and as MATLAB 7.3."""

from __future__ import annotations

import builtins
import sys

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MissingExtraError, MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.sysu_mat import read_sysu_mat
from tests.unit.features.test_features import assert_same


def cells_of(cam, scale=1.0):
    """Identity 1 has no image; identity i has i - 1 in camera 1, one in camera 3."""
    cells = []
    for identity in range(4):
        count = identity if cam == 1 else min(identity, 1)
        steps = np.arange(count * 2).reshape(count, 2) / 100  # a transposed reading shows
        cells.append(scale * (10 * cam + identity + 1.0 + steps))
    return cells


def write_5(path, cells, name="feature", **options):
    scipy_io = pytest.importorskip("scipy.io")
    column = np.empty((1, len(cells)), dtype=object)
    for place, cell in enumerate(cells):
        column[0, place] = cell
    scipy_io.savemat(path, {name: column}, **options)


def write_7_3(path, cells, name="feature"):
    """As MATLAB's ``save -v7.3`` lays a 1 x n cell array out."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        pointers = file.create_dataset(name, (len(cells), 1), dtype=h5py.ref_dtype)
        pointers.attrs["MATLAB_class"] = np.bytes_("cell")
        for place, cell in enumerate(cells):
            where = f"#refs#/{chr(ord('b') + place)}"
            if cell.size:
                item = file.create_dataset(where, data=np.asarray(cell).T)
            else:
                item = file.create_dataset(where, data=np.array(cell.shape, dtype=np.uint64))
                item.attrs["MATLAB_empty"] = np.uint8(1)
            kind = {"f4": "single"}.get(cell.dtype.str[1:], "double")
            item.attrs["MATLAB_class"] = np.bytes_(kind)
            pointers[place, 0] = item.ref
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan 01 00:00:00 2024 HDF5"
    with open(path, "r+b") as raw:
        raw.write(head.ljust(124) + b"\x00\x02IM")


WRITERS = {"5": write_5, "7.3": write_7_3}


def write_mats(folder, name="feat", scale=1.0, version="5"):
    for cam in (1, 3):
        WRITERS[version](folder / f"{name}_cam{cam}.mat", cells_of(cam, scale))


@pytest.mark.parametrize("version", WRITERS)
def test_sysu_mat_features(tmp_path, version):
    write_mats(tmp_path, version=version)
    features = FeatureSet.load(tmp_path)
    for source in (tmp_path, tmp_path / "feat_cam1.mat"):
        assert_same(FeatureSet.load(source), features)
    assert features.paths[:3] == (
        "cam1/0002/0001.jpg",
        "cam1/0003/0001.jpg",
        "cam1/0003/0002.jpg",
    )
    assert features.ids.tolist() == [2, 3, 3, 4, 4, 4, 2, 3, 4]
    assert features.cams.tolist() == [1] * 6 + [3] * 3
    assert features.modality.tolist() == [0] * 6 + [1] * 3
    expected = np.concatenate([cell for cam in (1, 3) for cell in cells_of(cam)])
    assert torch.equal(features.erased, torch.from_numpy(expected).float())
    assert features.related is None
    assert FeatureSet.load(tmp_path, identities=[3]).ids.tolist() == [3, 3, 3]


def test_both_versions_read_alike(tmp_path):
    rng = np.random.default_rng(0)
    for version in WRITERS:
        (tmp_path / version).mkdir()
    for cam in range(1, 7):
        counts = rng.integers(0, 4, 5)
        counts[0] = 1
        cells = [rng.normal(size=(count, 7)) for count in counts]
        cells[1] = cells[1].astype(np.float32)
        for version, write in WRITERS.items():
            write(tmp_path / version / f"x_cam{cam}.mat", cells)
    assert_same(FeatureSet.load(tmp_path / "7.3"), FeatureSet.load(tmp_path / "5"))


@pytest.mark.parametrize("version", WRITERS)
def test_sysu_mat_features_with_related(tmp_path, version):
    write_mats(tmp_path, version=version)
    write_mats(tmp_path, "other", scale=2.0)
    with pytest.raises(MixERValueError, match="holds feat, other"):
        FeatureSet.load(tmp_path)
    given = {"path": tmp_path / "feat_cam1.mat", "related": tmp_path / "other_cam3.mat"}
    features = FeatureSet.load(**given)
    assert_same(FeatureSet.load(**given), features)
    assert torch.equal(features.related, 2 * features.erased)
    (tmp_path / "other_cam3.mat").unlink()
    with pytest.raises(MixERValueError, match="other images"):
        FeatureSet.load(tmp_path / "feat_cam1.mat", related=tmp_path / "other_cam1.mat")


def test_sysu_mat_files_that_are_not_there(tmp_path):
    with pytest.raises(MixERValueError, match="holds none"):
        FeatureSet.load(tmp_path)
    with pytest.raises(MixERValueError, match="neither a folder nor"):
        read_sysu_mat(tmp_path / "none")


BAD_CELLS = {
    "nan": ([np.ones((1, 2)), np.full((2, 2), np.nan)], r"feature\{2\} holds values .* in row 0"),
    "complex": ([np.ones((1, 2)), np.ones((1, 2)) * 1j], r"feature\{2\} must be "),
    "width": (
        [np.ones((1, 2)), np.ones((3, 4))],
        r"feature\{2\} has shape \(3, 4\).*\[images, 2\]",
    ),
    "dimensions": ([np.ones((2, 2, 2))], r"feature\{1\} must be \[images, width\]"),
    "nothing": ([np.ones((0, 2))], "no feature of the wanted identities"),
}


@pytest.mark.parametrize("version", WRITERS)
@pytest.mark.parametrize("fault", BAD_CELLS)
def test_bad_cells_are_told_file_and_cell(tmp_path, version, fault):
    cells, message = BAD_CELLS[fault]
    path = tmp_path / "x_cam2.mat"
    WRITERS[version](path, cells)
    with pytest.raises((MixERValueError, MixERTypeError), match=message) as caught:
        FeatureSet.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("version", WRITERS)
def test_mat_files_without_the_cell(tmp_path, version):
    path = tmp_path / "x_cam2.mat"
    WRITERS[version](path, [np.ones((1, 2))], name="features")
    with pytest.raises(
        MixERValueError, match=r"x_cam2.mat: .*no variable 'feature', only features"
    ):
        FeatureSet.load(path)
    if version == "5":
        pytest.importorskip("scipy.io").savemat(path, {"feature": np.ones((2, 2))})
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["feature"] = np.ones((2, 2))
    with pytest.raises(MixERTypeError, match=r"x_cam2.mat: feature must be a cell array"):
        FeatureSet.load(path)


@pytest.mark.parametrize("version", WRITERS)
def test_damaged_mat_files(tmp_path, version):
    path = tmp_path / "x_cam2.mat"
    WRITERS[version](path, [np.ones((3, 20)), np.ones((2, 20))])
    content = path.read_bytes()
    for length in [20, 140, len(content) // 2, len(content) - 100]:
        path.write_bytes(content[:length])
        with pytest.raises(MixERValueError, match=f"x_cam2.mat: .*MATLAB {version}"):
            FeatureSet.load(path)


@pytest.mark.parametrize(
    ("version", "package", "extra"), [("5", "scipy", "demo"), ("7.3", "h5py", "bench")]
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, version, package, extra):
    write_mats(tmp_path, version=version)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=rf"needs {package}.*mixer-plugin\[{extra}\]"):
        FeatureSet.load(tmp_path)
