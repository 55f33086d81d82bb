"""Every kind of feature file: what is read, and what a malformed one is told."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_plugin.errors import MixERError, MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.label_table import COLUMNS, MODALITIES
from tests.unit.test_features import assert_same, make


def arrays(**changes):
    """The arrays of a sound .npz, some of them changed, None: left out."""
    plain = make()
    content = {name: getattr(plain, name).numpy() for name in ("erased", "related", "ids", "cams")}
    content |= {"modality": plain.modality.numpy(), "paths": np.asarray(plain.paths)}
    return {name: value for name, value in (content | changes).items() if value is not None}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "unpickled")


# --- .npz


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


@settings(max_examples=60, deadline=None)
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


# --- .npy with a table of labels

ROWS = """id,camera,modality,path
0,1,0,cam1/0001/0000.jpg
0,2,1,cam1/0001/0001.jpg
1,3,0,cam1/0001/0002.jpg
1,1,1,cam1/0001/0003.jpg
2,2,0,cam1/0001/0004.jpg
2,3,1,cam1/0001/0005.jpg
"""


def write_labels(folder, text=ROWS):
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def write_arrays(folder, dtype=np.float32):
    plain = make()
    np.save(folder / "erased.npy", plain.erased.numpy().astype(dtype))
    np.save(folder / "related.npy", plain.related.numpy().astype(dtype))
    return folder / "erased.npy", folder / "related.npy"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
def test_arrays_with_a_table_equal_the_npz(tmp_path, dtype):
    erased, related = write_arrays(tmp_path, dtype)
    labels = write_labels(tmp_path)
    assert_same(FeatureSet.load(erased, labels=labels, related=related), make())
    assert_same(FeatureSet.load(str(erased), labels=str(labels)), make(related=False))


def test_columns_in_any_order_and_words(tmp_path):
    erased, _ = write_arrays(tmp_path)
    expected = FeatureSet.load(erased, labels=write_labels(tmp_path))
    names = {words[0]: words for words in COLUMNS.values()}
    for turn in range(6):
        header, *lines = [line.split(",") for line in ROWS.split()]
        header = [names[name][turn % len(names[name])].upper() for name in header]
        for line in lines:
            words = MODALITIES[Modality(int(line[2]))]
            word = words[turn % len(words)]
            line[2] = f" {word.upper() if turn % 2 else word} "
        table = [[line[i] for i in (2, 3, 0, 1)] + ["extra"] for line in [header, *lines]]
        text = "\r\n".join(map(",".join, table)) + "\r\n\r\n"
        labels = write_labels(tmp_path, "\ufeff" * (turn % 2) + text)
        assert_same(FeatureSet.load(erased, labels=labels), expected)


def test_without_paths(tmp_path):
    erased, _ = write_arrays(tmp_path)
    text = "\n".join(line.rsplit(",", 1)[0] for line in ROWS.split())
    assert FeatureSet.load(erased, labels=write_labels(tmp_path, text)).paths is None


def changed(line, text):
    lines = ROWS.split()
    lines[line - 1] = text
    return "\n".join(lines)


BAD_TABLES = {
    "no header": ("\n".join(ROWS.split()[1:]), "line 1: no column names id"),
    "empty": ("", "line 1: no column names id"),
    "no modality": (changed(1, "id,camera,mode,path"), "line 1: no column names modality"),
    "semicolons": (ROWS.replace(",", ";"), "comma-separated, it is 'id;camera;modality;path'"),
    "a column twice": (changed(1, "id,cam,camera,modality"), "line 1: .*cam, camera all name"),
    "no number": (changed(3, "x,2,1,b"), "line 3, column 'id': 'x' is not a whole number"),
    "part of a number": (changed(5, "1,2.5,1,b"), "line 5, column 'camera': '2.5' is not"),
    "empty cell": (changed(2, ",2,1,b"), "line 2, column 'id': '' is not"),
    "wide number": (changed(2, f"{2**63},2,1,b"), "line 2, column 'id'"),
    "unknown modality": (
        changed(4, "1,2,infared,b"),
        "line 4, column 'modality': 'infared' is no modality. Did you mean 'infrared'",
    ),
    "short line": (changed(6, "1,2"), "line 6: 2 columns, but the header names 4"),
    "long line": (changed(6, "1,2,0,a,b"), "line 6: 5 columns, but the header names 4"),
    "open quotes": (changed(7, '1,2,0,"a'), "cannot be read as a CSV table"),
    "an image twice": (
        changed(7, "1,2,0,cam1/0001/0001.jpg"),
        "paths names 'cam1/0001/0001.jpg' twice, in rows 1 and 5",
    ),
    "too few lines": ("\n".join(ROWS.split()[:-1]), "has 5 rows, but .*erased.npy has 6"),
}


@pytest.mark.parametrize("fault", BAD_TABLES)
def test_a_bad_table_is_told_file_line_and_column(tmp_path, fault):
    erased, _ = write_arrays(tmp_path)
    text, message = BAD_TABLES[fault]
    labels = write_labels(tmp_path, text)
    with pytest.raises(MixERValueError, match=message) as caught:
        FeatureSet.load(erased, labels=labels)
    assert str(caught.value).startswith(str(labels))


def test_a_table_that_is_no_text(tmp_path):
    erased, _ = write_arrays(tmp_path)
    labels = tmp_path / "labels.csv"
    labels.write_bytes(b"id,camera,modality\n\xff\xfe")
    with pytest.raises(MixERValueError, match=r"labels.csv cannot be read"):
        FeatureSet.load(erased, labels=labels)
    with pytest.raises(MixERValueError, match=r"none.csv cannot be read"):
        FeatureSet.load(erased, labels=tmp_path / "none.csv")


BAD_ARRAYS = {
    "nan": (np.where(np.eye(6, 4) > 0, np.nan, 1.0), "{} holds values .* first in row 0"),
    "complex": (np.ones((6, 4), complex), "{} must be .* complex128"),
    "strings": (np.full((6, 4), "a"), "{} must be .* <U1"),
    "one dimension": (np.ones(6), r"{} must be \[images, width\], got \(6,\)"),
    "objects": (np.array([[{}]] * 6, dtype=object), "{} cannot be read .*[Pp]ython objects"),
}


@pytest.mark.parametrize("fault", BAD_ARRAYS)
@pytest.mark.parametrize("field", ["erased", "related"])
def test_a_bad_array_is_told_file_and_field(tmp_path, fault, field):
    value, message = BAD_ARRAYS[fault]
    paths = dict(zip(("erased", "related"), write_arrays(tmp_path), strict=True))
    np.save(paths[field], value)
    with pytest.raises((MixERValueError, MixERTypeError), match=message.format(field)) as caught:
        FeatureSet.load(paths["erased"], labels=write_labels(tmp_path), related=paths["related"])
    assert str(paths[field]) in str(caught.value)


def test_arrays_of_wrong_length(tmp_path):
    erased, related = write_arrays(tmp_path)
    labels = write_labels(tmp_path)
    np.save(related, np.ones((5, 3)))
    with pytest.raises(MixERValueError, match=r"related.npy has 5 rows, but .*erased.npy has 6"):
        FeatureSet.load(erased, labels=labels, related=related)
    np.save(erased, np.ones((5, 3)))
    with pytest.raises(MixERValueError, match=r"labels.csv has 6 rows, but .*erased.npy has 5"):
        FeatureSet.load(erased, labels=labels)


def test_zero_rows_of_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((0, 4)))
    with pytest.raises(MixERValueError, match="holds no image"):
        FeatureSet.load(tmp_path / "x.npy", labels=write_labels(tmp_path, ROWS.split()[0]))


def test_arrays_need_their_companions(tmp_path):
    erased, _ = write_arrays(tmp_path)
    with pytest.raises(MixERValueError, match=r"give them as labels='labels.csv'"):
        FeatureSet.load(erased)
    make().save(tmp_path / "x.npz")
    with pytest.raises(MixERValueError, match=r"x.npz: related must be an .npy"):
        FeatureSet.load(erased, labels=write_labels(tmp_path), related=tmp_path / "x.npz")
    erased.write_bytes(erased.read_bytes()[:-4])
    with pytest.raises(MixERValueError, match=r"erased.npy: erased cannot be read"):
        FeatureSet.load(erased, labels=write_labels(tmp_path))
