"""Feature files: what is read of an .npz, and what a damaged file of any kind is told."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixer_plugin.errors import MixERError, MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet
from tests.unit.features.feature_file_cases import arrays, write_labels
from tests.unit.features.test_features import assert_same, make


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "unpickled")


@pytest.mark.parametrize("related", [True, False])
@pytest.mark.parametrize("paths", [True, False])
def test_saved_and_loaded_are_equal(tmp_path, related, paths):
    features = make(related=related, paths=paths)
    features.save(tmp_path / "features.npz")
    assert_same(FeatureSet.load(tmp_path / "features.npz"), features)
    assert [path.name for path in tmp_path.iterdir()] == ["features.npz"]
    with np.load(tmp_path / "features.npz", allow_pickle=False) as content:
        assert content["erased"].dtype == np.float32


def test_the_content_says_the_kind_not_the_name(tmp_path):
    make().save(tmp_path / "features.backup")
    assert_same(FeatureSet.load(tmp_path / "features.backup"), make())


def test_other_arrays_are_ignored(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **arrays(), notes=np.array([{}], dtype=object))
    assert_same(FeatureSet.load(tmp_path / "x.npz"), make())


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


def with_value(name, row, value):
    field = np.array(arrays()[name], dtype=np.float64)
    field[row] = value
    return {name: field}


MALFORMED = {
    "nan": (with_value("erased", 3, np.nan), "erased holds values .* first in row 3"),
    "infinity": (with_value("related", 5, np.inf), "related holds values .* first in row 5"),
    "too large for float32": (with_value("erased", 1, 1e300), "erased .* first in row 1"),
    "complex": ({"erased": np.ones((6, 4), complex)}, "erased must be .* complex128"),
    "strings": ({"related": np.full((6, 4), "a")}, "related must be .* <U1"),
    "one dimension": ({"erased": np.ones(6)}, r"erased must be \[images, width\].*\(6,\)"),
    "three dimensions": ({"related": np.ones((6, 2, 2))}, r"related must be .*\(6, 2, 2\)"),
    "no width": ({"erased": np.ones((6, 0))}, r"erased must be .*\(6, 0\)"),
    "wrong length": ({"related": np.ones((5, 3))}, "related has 5 rows, but erased has 6"),
    "too few ids": ({"ids": np.arange(4)}, "ids has 4 rows, but erased has 6"),
    "ids in a column": ({"ids": np.ones((6, 1))}, r"ids must have one entry.*\(6, 1\)"),
    "part of an id": (with_value("ids", 2, 0.5), "ids must hold whole numbers.*0.5 in row 2"),
    "no id": (with_value("ids", 4, np.nan), "ids must hold whole numbers.*nan in row 4"),
    "names as ids": ({"ids": np.array(list("abcdef"))}, "ids must be .* <U1"),
    "wide cameras": ({"cams": np.full(6, 2**64 - 1, np.uint64)}, "cams must fit in int64"),
    "unknown modality": (with_value("modality", 1, 2), "modality must be 0 .* got 2 in row 1"),
    "modality by name": ({"modality": np.array(["V"] * 6)}, "modality must be .* <U1"),
    "paths in a column": ({"paths": np.full((6, 1), "a")}, r"paths must be .*\(6, 1\)"),
    "paths as bytes": ({"paths": np.full(6, b"a")}, "paths must be one string per image.*S1"),
    "too few paths": ({"paths": np.array(["a"])}, "paths has 1 rows, but erased has 6"),
    "an image twice": (
        {"paths": np.array(["a", "b", "c", "d", "b", "e"])},
        "paths names 'b' twice, in rows 1 and 4",
    ),
    "zero rows": (
        {name: value[:0] for name, value in arrays().items()},
        "holds no image",
    ),
    "no cameras": ({"cams": None, "paths": None}, "lacks cams; it holds erased, ids, modality"),
    "objects": (
        {"ids": np.array([{}] * 6, dtype=object)},
        "ids cannot be read, it is not an .npz of plain arrays .*allow_pickle=False",
    ),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_npz_is_told_file_and_field(tmp_path, fault):
    changes, message = MALFORMED[fault]
    path = tmp_path / "faulty.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises((MixERValueError, MixERTypeError), match=message) as caught:
        FeatureSet.load(path)
    assert str(caught.value).startswith(str(path))


def test_wrong_kinds_in_an_npz_are_type_errors(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays(erased=np.ones((6, 4), complex)))
    with pytest.raises(MixERTypeError):
        FeatureSet.load(tmp_path / "x.npz")


def test_a_member_that_is_no_array(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays(cams=None))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("cams", "1 2 3 4 5 6")
    with pytest.raises(MixERTypeError, match="cams is no array but 11 bytes"):
        FeatureSet.load(path)


@pytest.mark.parametrize("content", [b"", b"something else", pickle.dumps([1, 2])])
def test_files_of_another_kind(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(
        MixERValueError, match=r"x.npz is not an \.npz of plain arrays, an \.npy or"
    ):
        FeatureSet.load(tmp_path / "x.npz")


def test_a_missing_file(tmp_path):
    with pytest.raises(MixERValueError, match=r"x.npz is not a file"):
        FeatureSet.load(tmp_path / "x.npz")


def test_model_weights_are_no_features(tmp_path):
    torch.save({"erased": torch.ones(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(MixERValueError, match=r"model.pt lacks erased, ids, cams, modality"):
        FeatureSet.load(tmp_path / "model.pt")


def test_labels_and_related_are_not_for_an_npz(tmp_path):
    make().save(tmp_path / "x.npz")
    with pytest.raises(MixERValueError, match="brings its own ids"):
        FeatureSet.load(tmp_path / "x.npz", labels=tmp_path / "x.csv")
    with pytest.raises(MixERValueError, match="holds related features as its array 'related'"):
        FeatureSet.load(tmp_path / "x.npz", related=tmp_path / "x.npz")


@pytest.mark.parametrize("kind", ["npz", "npy", "related", "pickle"])
def test_nothing_is_unpickled(tmp_path, kind):
    bomb = np.array([[Bomb(tmp_path / "fired")]] * 6, dtype=object)
    path, sound, labels = tmp_path / "bomb", tmp_path / "sound.npy", write_labels(tmp_path)
    np.save(sound, np.ones((6, 2)))
    if kind == "npz":
        np.savez(path.open("wb"), **arrays(erased=bomb))
        given = {"path": path}
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
        given = {"path": path, "labels": labels}
    else:
        np.save(path.open("wb"), bomb)
        sides = {"path": path} if kind == "npy" else {"path": sound, "related": path}
        given = {"labels": labels, **sides}
    with pytest.raises(MixERValueError, match="bomb"):
        FeatureSet.load(**given)
    assert not (tmp_path / "fired").exists()
    pickle.loads(pickle.dumps(bomb))  # the bomb is live
    assert (tmp_path / "fired").exists()


@given(st.data())
def test_damaged_files_are_refused_or_read(tmp_path_factory, data):
    """Cut off anywhere or altered anywhere: an error of ours, or features."""
    folder = tmp_path_factory.mktemp("damaged")
    kind = data.draw(st.sampled_from(["npz", "compressed", "npy", "csv"]))
    path, labels = folder / "x", folder / "labels.csv"
    write_labels(folder)
    with path.open("wb") as file:
        if kind == "npz":
            np.savez(file, **arrays())
        elif kind == "compressed":
            np.savez_compressed(file, **arrays())
        else:
            np.save(file, np.ones((6, 2)))
    target = labels if kind == "csv" else path
    content = bytearray(target.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    target.write_bytes(content)
    said = ""
    try:
        FeatureSet.load(path, labels=labels if kind in ("npy", "csv") else None)
    except MixERError as error:
        said = str(error)
    assert not said or str(folder) in said


@pytest.mark.parametrize("compressed", [True, False])
def test_a_truncated_npz(tmp_path, compressed):
    path = tmp_path / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MixERValueError, match=r"x.npz: .* cannot be read"):
        FeatureSet.load(path)


def test_a_damaged_member_is_named(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays())
    content = path.read_bytes()
    cams = content.index(b"cams.npy") + 60
    path.write_bytes(content[:cams] + b"????????" + content[cams + 8 :])
    with pytest.raises(MixERValueError, match=r"x.npz: cams cannot be read"):
        FeatureSet.load(path)
