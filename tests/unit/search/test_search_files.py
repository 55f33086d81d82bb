from __future__ import annotations

import zipfile

import pytest
import torch

from mixer_plugin.errors import MixERValueError
from mixer_plugin.search import MixedModalIndex
from tests.search_cases import build, make

pytest.importorskip("faiss", reason="needs FAISS (the extra 'faiss')")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"calibration": "center"},
        {"factory": "HNSW8"},
        {"rule": "mixer-calibrated"},
        {"rule": "erased-calibrated", "calibration": "center"},
    ],
)
def test_saved_and_loaded(tmp_path, options):
    index = build(make(50), **options)
    index.remove([3])
    file = tmp_path / "gallery.index"
    index.save(file)
    again = MixedModalIndex.load(file, device="cpu")
    assert repr(again) == repr(index)
    assert again.keys_of(["set0/4.jpg"]) == [[4]]
    query = make(8, 1)
    for one, two in ((index, again), (again, index)):
        hits, others = one.search(query, 60), two.search(query, 60)
        assert torch.equal(hits.keys, others.keys)
        assert torch.equal(hits.scores, others.scores)
        assert hits.paths == others.paths
        if "factory" not in options:  # the levels of HNSW are drawn anew
            one.add(make(5, 9 + len(one)))
            two.add(make(5, 9 + len(two)))
    assert [path.name for path in tmp_path.iterdir()] == ["gallery.index"]
    twin = tmp_path / "twin.index"
    build(make(50), **options).save(twin)
    first = twin.read_bytes()
    build(make(50), **options).save(twin)
    assert twin.read_bytes() == first


def test_an_empty_index_is_saved_too(tmp_path):
    MixedModalIndex("erased", device="cpu").save(tmp_path / "x")
    index = MixedModalIndex.load(tmp_path / "x", device="cpu")
    assert index.add(make(20)).tolist() == list(range(20))
    assert index.rule == "erased"


def rewritten(source, target, change):
    """The zip with members changed: name and content to content, or None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


@pytest.mark.parametrize(
    "field",
    [
        "header",
        "ids",
        "cams",
        "modality",
        "alive",
        "paths",
        "visible",
        "infrared",
        "center_erased",
        "center_related",
        "mean_erased_visible",
        "covariance_related_infrared",
    ],
)
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_damaged_field_is_named(tmp_path, field, how):
    build(make(30), "mixer-calibrated", calibration="center").save(tmp_path / "good")

    def change(name, content):
        if name in (f"{field}.json", f"{field}.npy", f"{field}.faiss"):
            return None if how == "missing" else content[:-2] + bytes([content[-2] ^ 1]) + b"x"
        return content

    rewritten(tmp_path / "good", tmp_path / "bad", change)
    with pytest.raises(MixERValueError, match=f"bad.*'{field}'"):
        MixedModalIndex.load(tmp_path / "bad")


def test_files_that_are_none(tmp_path):
    file = tmp_path / "x.index"
    with pytest.raises(MixERValueError, match=r"x\.index is not a file"):
        MixedModalIndex.load(file)
    make(5).save(file)
    with pytest.raises(MixERValueError, match=r"x\.index has no field 'header'"):
        MixedModalIndex.load(file)
    file.write_bytes(b"hello")
    with pytest.raises(MixERValueError, match=r"x\.index is truncated or no search index"):
        MixedModalIndex.load(file)
    build(make(5)).save(file)
    whole = file.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(MixERValueError, match=r"x\.index is truncated"):
            MixedModalIndex.load(file)
    with pytest.raises(MixERValueError, match="not a folder"):
        build(make(5)).save(tmp_path / "nowhere" / "x")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "x.index"
    build(make(5)).save(file)
    before = file.read_bytes()

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        build(make(9)).save(file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.index"]


def test_a_newer_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mixer_plugin.search.files._VERSION", 2)
    build(make(5)).save(tmp_path / "x")
    monkeypatch.undo()
    with pytest.raises(MixERValueError, match=r"version 2; this package reads .* version 1"):
        MixedModalIndex.load(tmp_path / "x")
