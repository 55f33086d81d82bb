"""Images in folders of one's own, and in a table: what is known of each, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixer_plugin.data.datasets.layouts import whole_layout
from mixer_plugin.data.datasets.own_images import read_own_images
from mixer_plugin.data.synthetic import layout_config, write_layout
from mixer_plugin.errors import MixERValueError, MixERWarning
from tests.unit.extraction.own_folders import crops, paint


def rows(found) -> list[tuple]:
    images = found.images
    names = [Path(path).relative_to(images.root).as_posix() for path in images.paths]
    labels = (images.ids.tolist(), images.cams.tolist(), images.modality.tolist())
    return list(zip(names, *labels, strict=True))


def test_folders_say_modality_camera_and_identity(tmp_path: Path) -> None:
    crops(tmp_path, persons=2, each=1)
    (tmp_path / "visible" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    paint(tmp_path / ".hidden" / "x.png", 1)
    found = read_own_images(tmp_path)
    assert rows(found) == [
        ("infrared/cam2/0001/0.png", 1, 2, 1),
        ("infrared/cam2/0002/0.png", 2, 2, 1),
        ("visible/cam1/0001/0.png", 1, 1, 0),
        ("visible/cam1/0002/0.png", 2, 1, 0),
    ]
    assert found.times is None


def test_file_names_of_the_field_and_persons_nobody_knows(tmp_path: Path) -> None:
    for name in ("0002_c1s1_000451_03.png", "-1_c3s1_000001_00.png"):
        paint(tmp_path / "RGB" / name, 1)
    assert [row[1:] for row in rows(read_own_images(tmp_path))] == [(-1, 3, 0), (2, 1, 0)]
    other = tmp_path / "other"
    paint(other / "thermal" / "a.png", 1, grey=True)
    paint(other / "rgb" / "b.png", 1)
    # No camera is known: one of each modality.
    assert [row[1:] for row in rows(read_own_images(other))] == [(-1, 1, 0), (-1, 2, 1)]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    crops(tmp_path / "far", persons=1, each=1)
    (tmp_path / "near").mkdir()
    os.symlink(tmp_path / "far" / "visible", tmp_path / "near" / "visible")
    os.symlink(tmp_path / "near", tmp_path / "near" / "self")
    assert rows(read_own_images(tmp_path / "near")) == [("visible/cam1/0001/0.png", 1, 1, 0)]


def test_a_table_of_cameras(tmp_path: Path) -> None:
    for camera in (1, 4):
        paint(tmp_path / "crops" / f"cam{camera}" / "a.png", camera, grey=camera == 4)
    (tmp_path / "cameras.csv").write_text("camera,modality\n1,rgb\n4,ir\n9,ir\n")
    found = read_own_images(tmp_path / "crops", cameras=tmp_path / "cameras.csv")
    assert [row[2:] for row in rows(found)] == [(1, 0), (4, 1)]


def test_a_table_of_folders(tmp_path: Path) -> None:
    root = tmp_path / "crops"
    for place in ("gate", "hall/left", "hall/right"):
        paint(root / place / "a.png", len(place))
    table = tmp_path / "cameras.csv"
    table.write_text("folder,camera,modality\ngate,7,visible\nhall,8,visible\nhall/right/,9,ir\n")
    found = read_own_images(root, cameras=table)
    assert [row[2:] for row in rows(found)] == [(7, 0), (8, 0), (9, 1)]


def test_pixels_tell_the_modality_with_a_warning(tmp_path: Path) -> None:
    for number in range(3):
        paint(tmp_path / f"{number}.png", number, grey=number == 1)
    Image.new("L", (8, 8), 90).save(tmp_path / "3.jpg")
    Image.new("RGB", (8, 8), (90, 92, 93)).save(tmp_path / "4.png")  # of grey things
    told: list[tuple[int, int]] = []
    with pytest.warns(MixERWarning, match=r"3 coloured .*, 2 grey .*1 lie between, .*4\.png"):
        found = read_own_images(
            tmp_path, modality="auto", workers=2, progress=lambda *done: told.append(done)
        )
    assert found.images.modality.tolist() == [0, 1, 0, 1, 0]
    assert told == [(5, 5)]


def test_a_csv_with_all_there_may_be(tmp_path: Path) -> None:
    for number in range(3):
        paint(tmp_path / "a" / f"{number}.png", number)
    table = tmp_path / "images.csv"
    table.write_text(
        "time,modality,camera,path,note,id\n"
        "12.5,V,3,a/2.png,x,7\n"
        ",visible,4,a\\0.png,,\n"
        "1970-01-01T00:01:00Z,thermal,5,a/1.png,,?\n"
    )
    found = read_own_images(table)
    assert rows(found) == [("a/2.png", 7, 3, 0), ("a/0.png", -1, 4, 0), ("a/1.png", -1, 5, 1)]
    assert np.array_equal(found.times, [12.5, np.nan, 60.0], equal_nan=True)


def test_a_csv_of_paths_alone(tmp_path: Path) -> None:
    paint(tmp_path / "0.png", 0)
    table = tmp_path / "images.csv"
    table.write_text("path\n0.png\n")
    assert rows(read_own_images(table, modality="infrared")) == [("0.png", -1, 2, 1)]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("id,modality\n1,ir\n", {}, "no column names path"),
        ("path\nb.png\n", {"modality": "auto"}, "names files that are not there: b.png"),
        ("path\na.png\n", {}, "nothing says the modality of 1 of 1 images, such as a.png"),
        ("path,modality\na.png,red\n", {}, "'red' is no modality"),
        ("path,modality\na.png,ir\n", {"modality": "auto"}, "would change nothing"),
        ("path,modality\na.png,ir\n", {"modality": "grey"}, "Unknown modality 'grey'"),
        ("path,modality,time\na.png,ir,noon\n", {}, "'noon' is no time"),
        ("path,modality,time\na.png,ir,inf\n", {}, "'inf' is no time"),
        ("path,modality,id\na.png,ir,x\n", {}, "'x' is not a whole number"),
        ("path,modality\na.png,ir\n./a.png,ir\n", {}, "the same file is there twice"),
        ("path,modality,camera\na.png,ir,1\nc.png,ir,\n", {}, "1 of 2 images have no camera"),
        ("path\n", {}, "has no image"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, options: dict, message: str) -> None:
    paint(tmp_path / "a.png", 0)
    paint(tmp_path / "c.png", 1)
    (tmp_path / "images.csv").write_text(text)
    with pytest.raises(MixERValueError, match=message):
        read_own_images(tmp_path / "images.csv", **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera,modality\n5,ir\n", "says nothing new of any image"),
        ("camera,modality\n1,ir\n", "another modality than visible/cam1/0001/0.png"),
        ("modality\nir\n", "must have a column camera or folder"),
        ("camera,modality\n1,rgb\n1,rgb\n", "has 1 in several lines"),
    ],
)
def test_tables_of_cameras_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    crops(tmp_path / "crops", persons=1, each=1)
    (tmp_path / "cameras.csv").write_text(text)
    with pytest.raises(MixERValueError, match=message):
        read_own_images(tmp_path / "crops", cameras=tmp_path / "cameras.csv")


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MixERValueError, match="has no image"):
        read_own_images(tmp_path)
    with pytest.raises(MixERValueError, match="no folder and no table"):
        read_own_images(tmp_path / "absent")
    with pytest.raises(MixERValueError, match="is one image; give its folder"):
        read_own_images(paint(tmp_path / "visible" / "ir" / "a.png", 0))
    with pytest.raises(MixERValueError, match="name both modalities"):
        read_own_images(tmp_path)


def test_a_layout_is_one_that_lacks_nothing(tmp_path: Path) -> None:
    config = layout_config("sysu", train_ids=1, val_ids=1, test_ids=1, height=16, width=8)
    write_layout(tmp_path / "sysu", config, "sysu")
    assert whole_layout(tmp_path / "sysu") == "sysu"
    assert whole_layout(crops(tmp_path / "Visible", persons=1)) is None
    paint(tmp_path / "own" / "cam1" / "a.png", 0)  # as SYSU-MM01's, but no folder exp
    assert whole_layout(tmp_path / "own") is None
    assert whole_layout(tmp_path / "absent") is None
