"""MATLAB files: what SciPy and h5py read comes back, damage is an error that names the file."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.sysu_mat import read_sysu_mat
from mixer_plugin.io.mat.child import pack, unpack
from mixer_plugin.io.mat.file import read_mat
from mixer_plugin.io.mat.plain import read_plain
from mixer_plugin.io.permutation_file import check_permutation, read_permutation_file


def _cells(*values: object) -> np.ndarray:
    cells = np.empty((1, len(values)), dtype=object)
    for place, value in enumerate(values):
        cells[0, place] = value
    return cells


def _draws(trials: object = None) -> np.ndarray:
    matrix = np.stack([np.roll([1, 2, 3], t) for t in range(10)]) if trials is None else trials
    return _cells(*[_cells(matrix, np.zeros((0, 0))) for _ in range(6)]).T


def _same(found: object, expected: object) -> bool:
    if isinstance(found, np.ndarray) and found.dtype == object:
        assert isinstance(expected, np.ndarray)
        assert found.shape == expected.shape
        return all(_same(a, b) for a, b in zip(found.flat, expected.flat, strict=True))
    assert isinstance(found, np.ndarray)
    assert isinstance(expected, np.ndarray)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    return found.tobytes() == expected.tobytes()


PLAIN = _cells(
    np.random.default_rng(0).normal(size=(4, 3)),
    np.arange(6, dtype=np.uint16).reshape(2, 3),
    np.zeros((0, 0)),
    np.ones((2, 2, 2), np.float32),
    _cells(np.array([[7]], np.uint8)),
)
UNUSUAL = {
    "complex": np.ones((2, 2)) * 1j,
    "logical": np.ones((2, 2), bool),
    "text": np.array(["some text"]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_plain_files_are_sound_and_read_as_scipy_reads_them(compressed, tmp_path):
    path = tmp_path / "x.mat"
    before = {"other": "text", "more": np.ones((2, 2))}
    scipy.io.savemat(path, {**before, "x": PLAIN}, do_compression=compressed)
    assert read_plain(path.read_bytes(), "x") is not None
    assert _same(read_mat(path, "x"), scipy.io.loadmat(path)["x"])


@pytest.mark.parametrize("kind", UNUSUAL)
def test_other_files_come_back_from_a_process_of_their_own(kind, tmp_path):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"x": _cells(UNUSUAL[kind], np.eye(2))})
    assert read_plain(path.read_bytes(), "x") is None
    assert _same(read_mat(path, "x"), scipy.io.loadmat(path)["x"])


def test_files_of_matlab_4(tmp_path):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"x": np.eye(3)}, format="4")
    assert read_mat(path, "x").tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("values", [{"x": {"a": 1}}, {"y": np.ones(3)}])
def test_structs_and_missing_variables_are_told(values, tmp_path):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, values)
    words = "struct" if "x" in values else "no variable 'x', only y"
    with pytest.raises(MixERValueError, match=rf"x\.mat: .*{words}"):
        read_mat(path, "x")


@pytest.mark.parametrize("name", ["", "none.mat"])
def test_what_cannot_be_opened_is_named(name, tmp_path):
    with pytest.raises(MixERValueError, match=rf"{name}: not a readable MATLAB file"):
        read_mat(tmp_path / name, "x")


def _write_7_3(path: Path, kind: str) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("#refs#")
        references = np.empty((3, 1), dtype=h5py.ref_dtype)
        for place in range(3):
            name = f"c{place}"
            if place != 1:
                item = group.create_dataset(name, data=np.ones((4, 2)) * (place + 1))
            elif kind == "null":
                item = group.create_dataset(name, data=h5py.Empty("f8"))
            elif kind == "struct":
                item = group.create_group(name)
            else:
                item = group.create_group(name)
                item.attrs["MATLAB_sparse"] = np.uint64(2)
                matrix = scipy.sparse.csc_matrix(np.array([[0, 5, 0, 0], [0, 0, 0, 7.0]]))
                item["jc"] = matrix.indptr.astype(np.uint64)
                item["ir"], item["data"] = matrix.indices.astype(np.uint64), matrix.data
            references[place, 0] = item.ref
        file.create_dataset("feature", data=references)
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124, b"\0") + b"\0\2IM")


def test_sparse_features_are_read_in_both_versions(tmp_path):
    for version in ("5", "7.3"):
        (tmp_path / version).mkdir()
    _write_7_3(tmp_path / "7.3/f_cam1.mat", "sparse")
    sparse = scipy.sparse.csc_matrix(np.array([[0, 5, 0, 0], [0, 0, 0, 7.0]]))
    cells = _cells(np.ones((2, 4)), sparse, np.ones((2, 4)) * 3)
    scipy.io.savemat(tmp_path / "5/f_cam1.mat", {"feature": cells})
    found = [FeatureSet.load(tmp_path / version) for version in ("5", "7.3")]
    assert found[0].ids.tolist() == [1, 1, 2, 2, 3, 3]
    assert found[0].erased[2:4].tolist() == [[0, 5, 0, 0], [0, 0, 0, 7]]
    assert found[0].erased.tolist() == found[1].erased.tolist()


def test_empty_and_foreign_cells_of_7_3(tmp_path):
    _write_7_3(tmp_path / "f_cam1.mat", "null")
    (tmp_path / "._f_cam1.mat").write_bytes(b"\0\5\x16\7")
    assert FeatureSet.load(tmp_path).ids.tolist() == [1, 1, 3, 3]
    _write_7_3(tmp_path / "f_cam1.mat", "struct")
    with pytest.raises(MixERValueError, match=r"f_cam1\.mat: .*struct"):
        FeatureSet.load(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_seen_or_changes_values(seed, tmp_path):
    path = tmp_path / "p.mat"
    scipy.io.savemat(path, {"rand_perm_cam": _draws()})
    whole = path.read_bytes()
    draw = random.Random(seed)
    sound = 0
    for _ in range(300):
        bad = bytearray(whole)
        for _ in range(draw.choice([1, 1, 4])):
            bad[draw.randrange(128, len(bad))] ^= 1 << draw.randrange(8)
        sound += read_plain(bytes(bad), "rand_perm_cam") is not None  # else SciPy's process
    assert 0 < sound < 300


def test_a_length_that_ends_scipy_is_an_error(tmp_path):
    path = tmp_path / "p.mat"
    scipy.io.savemat(path, {"rand_perm_cam": _draws()})
    whole = path.read_bytes()
    at = whole.index(b"\x05\0\0\0\x08\0\0\0\x0a\0\0\0\x03\0\0\0") + 8  # of [10, 3]
    path.write_bytes(whole[:at] + b"\x0a\0\0\x40" + whole[at + 4 :])
    with pytest.raises(MixERValueError, match=r"p\.mat"):
        read_permutation_file(path)


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "p.mat"
    scipy.io.savemat(path, {"x": np.ones((2, 2))})
    body = zlib.compress(b"\0" * 10_000_000)
    length = len(body).to_bytes(4, "little")
    path.write_bytes(path.read_bytes()[:128] + b"\x0f\0\0\0" + length + body)
    with pytest.raises(MixERValueError, match=r"p\.mat"):
        read_mat(path, "x")


BROKEN = {
    "an image twice": [[1, 1, 2]] * 10,
    "other images": [[1, 2, 3]] * 9 + [[1, 2, 4]],
    "fractions": [[1.9, 2.9, 3.9]] * 10,
    "not a number": [[1, 2, np.nan]] * 10,
    "image zero": [[0, 1, 2]] * 10,
    "text": [["one", "two", "six"]] * 10,
    "three dimensions": np.ones((2, 2, 2)),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_draws_are_permutations(fault, tmp_path):
    path = tmp_path / "rand_perm_cam.mat"
    for source in (_draws(np.asarray(BROKEN[fault])), {1: {1: np.asarray(BROKEN[fault])}}):
        with pytest.raises(MixERValueError, match=r"draws: .*camera 1: the trials of identity 1 "):
            check_permutation(source, "draws")
    if fault in ("an image twice", "fractions"):
        scipy.io.savemat(path, {"rand_perm_cam": _draws(np.asarray(BROKEN[fault]))})
        with pytest.raises(MixERValueError, match=r"rand_perm_cam\.mat: .*camera 6: the trials"):
            read_permutation_file(path)


@pytest.mark.parametrize("length", [0, 100, 300, 1000])
def test_cut_draws_are_named(length, tmp_path):
    path = tmp_path / "p.mat"
    scipy.io.savemat(path, {"rand_perm_cam": _draws()})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(MixERValueError, match=r"p\.mat: not a readable MATLAB file"):
        read_permutation_file(path)


def test_a_hidden_file_is_no_camera(tmp_path):
    (tmp_path / "._f_cam1.mat").write_bytes(b"\0\5\x16\7")
    with pytest.raises(MixERValueError, match=r"\._f_cam1\.mat is neither a folder nor"):
        read_sysu_mat(tmp_path / "._f_cam1.mat")


def test_a_feature_that_is_no_cell(tmp_path):
    scipy.io.savemat(tmp_path / "f_cam1.mat", {"feature": scipy.sparse.csc_matrix(np.eye(3))})
    with pytest.raises(MixERTypeError, match=r"f_cam1\.mat: feature must be a cell array"):
        FeatureSet.load(tmp_path)


def test_what_the_process_sends_arrives_bit_for_bit():
    cells = np.empty((2, 1), dtype=object)
    inner = np.empty((1, 2), dtype=object)
    inner[0, 0], inner[0, 1] = np.array([[np.nan, -0.0]]), np.array([["a", "bc"]])
    cells[0, 0], cells[1, 0] = inner, np.empty((0, 3), dtype=np.int16)
    found = unpack(pack(cells))
    assert found.shape == (2, 1)
    for sent, got in ((inner[0, 0], found[0, 0][0, 0]), (cells[1, 0], found[1, 0])):
        assert got.dtype == sent.dtype
        assert got.tobytes() == sent.tobytes()
        assert got.shape == sent.shape
    assert found[0, 0][0, 1].tolist() == [["a", "bc"]]
    assert unpack(b'"it is damaged"\n') == "it is damaged"
