"""Features in .npy files with a table of labels: what is read, and what a bad one is told."""

from __future__ import annotations

import numpy as np
import pytest

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.features.label_csv import COLUMNS, MODALITIES
from tests.unit.features.feature_file_cases import ROWS, write_arrays, write_labels
from tests.unit.features.test_features import assert_same, make


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
