"""Arrays of files hold no more than the file; numbers come whole or not at all."""

from __future__ import annotations

import contextlib
import os
import random
import zipfile

import numpy as np
import pytest

from mixer_plugin.errors import MixERError, MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.array_file import map_array, read_arrays, zip_names
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.io.whole_number import whole_number, whole_numbers


def _arrays(**changes):
    named = {
        "erased": np.random.default_rng(0).normal(size=(4, 3)),
        "ids": np.arange(4),
        "cams": np.ones(4, int),
        "modality": np.array([0, 0, 1, 1]),
    }
    return {**named, **changes}


def _header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("shape", ["(4, 1000000000000)", "(99999999999999999999, 2)", "(-1, 3)"])
def test_huge_arrays_are_refused_before_memory_is_used(shape, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **_arrays())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["erased.npy"] = _header(shape) + b"\0" * 96
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(MixERValueError, match=r"x\.npz: erased cannot be read"):
        FeatureSet.load(path)
    (tmp_path / "x.npy").write_bytes(members["erased.npy"])
    with pytest.raises(MixERValueError, match=r"x\.npy: features cannot be read"):
        map_array(tmp_path / "x.npy", "features")


def test_whatever_is_damaged_the_file_is_named(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **_arrays(paths=np.array(["a", "b", "c", "d"])))
    whole = path.read_bytes()
    draw = random.Random(0)
    failed = 0
    for _ in range(150):
        bad = bytearray(whole)
        for _ in range(draw.choice([1, 3, 30])):
            bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        path.write_bytes(bad[: draw.choice([len(bad), draw.randrange(8, len(bad))])])
        zip_names(path)
        with contextlib.suppress(MixERError):  # and nothing else is raised
            FeatureSet.load(path)
            continue
        failed += 1
    assert failed > 100


def test_objects_are_never_loaded(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([print], dtype=object))
    with pytest.raises(MixERValueError, match=r"x\.npz: a cannot be read.*allow_pickle"):
        read_arrays(path)
    np.save(tmp_path / "x.npy", np.array([print], dtype=object))
    with pytest.raises(MixERValueError, match=r"x\.npy: it cannot be read"):
        map_array(tmp_path / "x.npy", "it")


@pytest.mark.parametrize("link", [os.symlink, os.link, None])
def test_an_image_counts_once_by_whatever_path(link, tmp_path):
    paths = [str(tmp_path / name) for name in "abcd"]
    if link is not None:
        (tmp_path / "a").touch()
        link(str(tmp_path / "a"), str(tmp_path / "c"))
    else:
        paths[2] = str(tmp_path / "x" / ".." / "a")
    np.savez(tmp_path / "x.npz", **_arrays(paths=np.array(paths)))
    with pytest.raises(MixERValueError, match=r"paths names .* twice.*in rows 0 and 2"):
        FeatureSet.load(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", _arrays()["erased"])
    rows = "".join(f"{i},1,0,{path}\n" for i, path in enumerate(paths))
    (tmp_path / "l.csv").write_text("id,camera,modality,path\n" + rows, "utf-8-sig")
    with pytest.raises(MixERValueError, match=r"l\.csv.*paths names .* twice"):
        FeatureSet.load(tmp_path / "x.npy", labels=tmp_path / "l.csv")


@pytest.mark.parametrize(
    "values",
    [[1.5], [np.nan], [np.inf], [2.0**63], [2**63], [-(2**63) - 1], [2**64 - 1]],
)
def test_numbers_that_int64_cannot_hold(values):
    with pytest.raises(MixERValueError, match=r"^ids: .* is not a whole number of 64 bits"):
        whole_numbers(values, "ids")


@pytest.mark.parametrize("values", [["1"], [None], [1j], [1, "x"]])
def test_what_is_no_number(values):
    with pytest.raises(MixERTypeError, match="expected whole numbers"):
        whole_numbers(np.asarray(values, dtype=object), "ids")


def test_whole_numbers_come_back():
    assert whole_numbers([1.0, -(2.0**62)], "x").tolist() == [1, -(2**62)]
    assert whole_numbers([2**63 - 1, -(2**63)], "x").tolist() == [2**63 - 1, -(2**63)]
    assert whole_numbers([], "x").dtype == np.int64
    assert whole_number("-007", "x") == -7


@pytest.mark.parametrize("text", ["1.0", "٣", "²", "", "1e3", "9" * 19, "+1", " 1", "1\n"])
def test_words_that_are_no_number(text):
    with pytest.raises(MixERValueError, match=r"line 3: .* is not a whole number"):
        whole_number(text, "line 3")


def _write(path, content=b"new"):
    with atomic_write(path) as file:
        file.write(content)


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/x").write_bytes(b"old")
    (tmp_path / "disk/x").chmod(0o640)
    (tmp_path / "between").symlink_to("disk/x")
    (tmp_path / "x").symlink_to("between")
    _write(tmp_path / "x")
    assert (tmp_path / "x").is_symlink()
    assert (tmp_path / "disk/x").read_bytes() == b"new"
    assert (tmp_path / "disk/x").stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path / "disk") == ["x"]


def test_a_link_to_a_file_that_is_not_there_yet(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "x").symlink_to("disk/x")
    _write(tmp_path / "x")
    assert (tmp_path / "disk/x").read_bytes() == b"new"
    (tmp_path / "y").symlink_to("none/y")
    with pytest.raises(MixERValueError, match="none is not a folder"):
        _write(tmp_path / "y")


@pytest.mark.parametrize("kind", ["circle", "folder", "pipe"])
def test_what_is_no_file_is_not_replaced(kind, tmp_path):
    path = tmp_path / "x"
    {"circle": lambda: path.symlink_to("x"), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[
        kind
    ]()
    with pytest.raises(MixERValueError, match="not a file that can be replaced"):
        _write(path)
    assert os.listdir(tmp_path) == ["x"]
