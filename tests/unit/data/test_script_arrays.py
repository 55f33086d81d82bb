from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixer_plugin.cli import main
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.data.loading import script_arrays
from mixer_plugin.data.loading.array_check import check_script_arrays
from mixer_plugin.data.loading.script_arrays import read_script_arrays, write_script_arrays
from mixer_plugin.data.synthetic import SyntheticConfig, write_layout
from mixer_plugin.errors import MixERValueError
from tests.unit.data.small_roots import WRITERS

NAMES = [f"train_{side}_resized_{kind}.npy" for side in ("rgb", "ir") for kind in ("img", "label")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    root = tmp_path_factory.mktemp("roots") / "sysu"
    WRITERS["sysu"](root)
    return read_images(root, "train")


@pytest.fixture
def root(images: ImageList, tmp_path: Path) -> Path:
    write_script_arrays(images, tmp_path, (12, 8))
    return tmp_path


def _literal(
    images: ImageList, modality: int, size: tuple[int, int] = (8, 12)
) -> tuple[np.ndarray, np.ndarray]:
    """As the public scripts do it: by identity, camera and file, each resized with Lanczos."""
    known = sorted(set(images.ids.tolist()))
    pixels, labels = [], []
    for label, identity in enumerate(known):
        for cam in range(1, 10):
            for path in sorted(images.paths):
                row = images.paths.index(path)
                if (images.ids[row], images.cams[row], images.modality[row]) == (
                    identity,
                    cam,
                    modality,
                ):
                    image = Image.open(path).resize(size, Image.Resampling.LANCZOS)
                    pixels.append(np.array(image))
                    labels.append(label)
    return np.array(pixels), np.array(labels)


@pytest.mark.parametrize("layout", ["sysu", "regdb", "llcm"])
def test_written_as_the_public_scripts_do_and_read_back(layout: str, tmp_path: Path) -> None:
    WRITERS[layout](tmp_path / layout)
    images = read_images(tmp_path / layout, "train")
    seen: list[tuple[int, int]] = []
    write_script_arrays(
        images, tmp_path, (12, 8), workers=2, progress=lambda *args: seen.append(args)
    )
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == sorted(NAMES)
    assert not list(tmp_path.glob(".*"))
    assert seen[-1] == (len(images), len(images))
    arrays = read_script_arrays(tmp_path)
    for modality, pixels, labels in (
        (0, arrays.visible, arrays.visible_labels),
        (1, arrays.infrared, arrays.infrared_labels),
    ):
        expected, numbers = _literal(images, modality)
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(labels, numbers)
        assert isinstance(pixels, np.memmap)
        assert pixels.dtype == np.uint8
        assert labels.dtype == np.int64
    np.testing.assert_array_equal(np.load(tmp_path / NAMES[0]), arrays.visible)


def test_more_images_than_one_chunk(
    images: ImageList, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(script_arrays, "_STEP", 5)
    write_script_arrays(images, tmp_path / "again", (12, 8))
    for name in NAMES:
        assert (root / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_failure_leaves_what_was_there(images: ImageList, root: Path) -> None:
    before = {name: (root / name).read_bytes() for name in NAMES}
    paths = (*images.paths[:-1], str(root / "absent.jpg"))  # the last infrared image
    broken = ImageList(images.root, paths, images.ids, images.cams, images.modality)
    with pytest.raises(MixERValueError, match=r"absent\.jpg cannot be read as an image"):
        write_script_arrays(broken, root, (24, 16))
    assert {path.name: path.read_bytes() for path in root.iterdir()} == before


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_what_it_should_hold(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(MixERValueError, match=rf"{name} is missing. It should hold (images|label)"):
        read_script_arrays(root)


def _save(root: Path, name: str, values: object) -> None:
    np.save(root / name, np.asarray(values), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        (NAMES[0], np.zeros((36, 12, 8, 3)), r"must be uint8 \[N, H, W, 3\], got float64"),
        (NAMES[0], np.zeros((36, 3, 12, 8), np.uint8), r"got uint8 \[36, 3, 12, 8\]"),
        (NAMES[0], np.zeros((36, 24, 8, 3), np.uint8), r"\(24, 8\) and infrared ones \(12, 8\)"),
        (NAMES[1], np.zeros(35, np.int64), r"integers of shape \[36\].*got int64 \[35\]"),
        (NAMES[1], np.zeros(36), r"got float64 \[36\]"),
        (NAMES[1], np.array([None]), "cannot be read"),
        (NAMES[1], np.arange(36) % 2, "visible and infrared images, but 2 have one"),
        (NAMES[3], np.arange(18) % 4, "visible and infrared images, but 3 have one"),
    ],
)
def test_files_that_do_not_fit(root: Path, name: str, values: object, words: str) -> None:
    _save(root, name, values)
    with pytest.raises(MixERValueError, match=words):
        read_script_arrays(root)


def test_labels_with_gaps(root: Path) -> None:
    for name in NAMES[1::2]:
        labels = np.load(root / name)
        _save(root, name, np.where(labels == 1, 5, labels))
    with pytest.raises(MixERValueError, match="without gaps, got 0 to 5 without 1, 3, 4"):
        read_script_arrays(root)


def test_labels_far_apart_need_no_memory(root: Path) -> None:
    for name in NAMES[1::2]:
        labels = np.load(root / name)
        _save(root, name, np.where(labels == 1, 2**62, labels))
    with pytest.raises(MixERValueError, match=f"without gaps, got 0 to {2**62} without 1, "):
        read_script_arrays(root)
    for name in NAMES[1::2]:
        _save(root, name, np.load(root / name).astype(np.uint64) + np.uint64(2**63))
    with pytest.raises(MixERValueError, match=r"label\.npy: .* is not a whole number of 64 bits"):
        read_script_arrays(root)


def test_cut_off_and_foreign_files(root: Path) -> None:
    path = root / NAMES[0]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(MixERValueError, match="cannot be read"):
        read_script_arrays(root)
    path.write_bytes(b"")
    with pytest.raises(MixERValueError, match="cannot be read"):
        read_script_arrays(root)


def test_what_cannot_be_written(images: ImageList, tmp_path: Path) -> None:
    with pytest.raises(MixERValueError, match="size must be"):
        write_script_arrays(images, tmp_path, (0, 8))
    with pytest.raises(MixERValueError, match="workers must be at least 1"):
        write_script_arrays(images, tmp_path, (12, 8), workers=0)
    with pytest.raises(MixERValueError, match="is not a folder"):
        write_script_arrays(images, tmp_path / "absent", (12, 8))
    alone = images.select((images.modality == 0) | (images.ids != 2))
    with pytest.raises(MixERValueError, match="visible and infrared images, but 2 have one"):
        write_script_arrays(alone, tmp_path, (12, 8))
    with pytest.raises(MixERValueError, match="but there is no image"):
        write_script_arrays(images.select([]), tmp_path, (12, 8))
    assert not list(tmp_path.iterdir())


def _command(*words: object) -> int:
    return main(["arrays", *map(str, words)])


def test_the_command_writes_what_the_scripts_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "sysu"
    config = SyntheticConfig(train_ids=3, val_ids=2, test_ids=2, height=32, width=16)
    write_layout(root, config, "sysu")
    assert _command(root, "--size", "24x12") == 0
    printed = capsys.readouterr()
    # Per identity 4 images in each of 4 visible and 8 in each of 2 infrared cameras; half in val.
    assert "64 visible and 64 infrared images of 5 identities (trainval), 24 x 12" in printed.out
    assert json.loads(printed.err.splitlines()[-1]) == {
        "event": "written",
        "images": 128,
        "of": 128,
    }
    # As data_loader.py of DDAG does.
    data_dir = f"{root}/"
    for side in ("rgb", "ir"):
        color_image = np.load(data_dir + f"train_{side}_resized_img.npy")
        color_label = np.load(data_dir + f"train_{side}_resized_label.npy")
        assert color_image.shape == (64, 24, 12, 3)
        assert color_image.dtype == np.uint8
        assert Image.fromarray(color_image[0]).size == (12, 24)
        assert np.bincount(color_label).tolist() == [16, 16, 16, 8, 8]
    images = read_images(root, "trainval")
    expected, _ = _literal(images, 1, (12, 24))
    np.testing.assert_array_equal(color_image, expected)


def test_the_command_replaces_nothing_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "regdb", tmp_path / "new" / "arrays"
    WRITERS["regdb"](root)
    assert _command(root, "--out", out, "--trial", 2, "--size", "12x8") == 0
    assert "9 visible and 9 infrared images of 3 identities (train)" in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == sorted(NAMES)
    assert _command(root, "--out", out) == 2
    message = capsys.readouterr().err
    assert all(str(out / name) in message for name in NAMES)
    assert "Add --overwrite, or give another --out." in message
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert _command(root, "--out", out, "--overwrite") == 0
    assert np.load(out / NAMES[0]).shape == (9, 288, 144, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layout", "sysi"], "Unknown layout 'sysi'. Did you mean 'sysu'"),
        (["--split", "query"], "Unknown split 'query'"),
        (["--size", "0x8"], "size must be"),
        (["--workers", "0"], "workers must be at least 1"),
        (["--trial", "2"], "Only RegDB has trials"),
    ],
)
def test_the_command_names_wrong_arguments(
    images: ImageList, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(images.root, *words) == 2
    assert message in capsys.readouterr().err
    assert not list(images.root.glob("*.npy"))
    assert _command(images.root / "absent") == 2
    assert "is not a folder" in capsys.readouterr().err
    assert not (images.root / "absent").exists()


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A data set with its arrays beside the images, as the public scripts want them."""
    root = tmp_path / "sysu"
    WRITERS["sysu"](root)
    write_script_arrays(read_images(root, "trainval"), root, (12, 8))
    return root


def _mirrored(root: Path, images: ImageList) -> None:
    pixels = np.load(root / NAMES[0])
    flipped = pixels[:, :, ::-1].copy()
    np.save(root / NAMES[0], flipped)


def _of_train_alone(root: Path, images: ImageList) -> None:
    write_script_arrays(read_images(root, "train"), root, (12, 8))


def _swapped_labels(root: Path, images: ImageList) -> None:
    for name in NAMES[1::2]:
        labels = np.load(root / name)
        np.save(root / name, labels.max() - labels)


def _cut_off(root: Path, images: ImageList) -> None:
    (root / NAMES[3]).unlink()


@pytest.mark.parametrize(
    ("change", "severity", "said"),
    [
        (_mirrored, "warning", r"rgb.* other pixels .* 16 of 16 rows, in row 0 by \d+ levels"),
        (_of_train_alone, "warning", r"rgb_resized_img.npy has \d+ images, and trainval has \d+"),
        (_swapped_labels, "warning", r"has label \d for row 0; expected 0, by ascending identity"),
        (_cut_off, "error", r"train_ir_resized_label.npy is missing"),
    ],
)
def test_the_doctor_tells_arrays_that_are_not_the_images(
    whole: Path,
    images: ImageList,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path, ImageList], None],
    severity: str,
    said: str,
) -> None:
    found = check_script_arrays(whole)
    assert [one.severity for one in found] == ["info", "info"]
    assert "12 x 8; 16 compared" in found[0].what
    change(whole, images)
    first = next(one for one in check_script_arrays(whole) if one.severity != "info")
    assert first.severity == severity
    assert re.search(said, first.what)
    main(["doctor", str(whole)])
    assert re.search(rf"{severity} +.*{said}", capsys.readouterr().out)
    if severity == "warning":
        assert first.fix == (
            f"Write them anew: mixer-plugin arrays {whole} --size 12x8 --overwrite."
        )


def test_the_doctor_says_nothing_of_arrays_that_are_not_there(whole: Path) -> None:
    for name in NAMES:
        (whole / name).unlink()
    assert check_script_arrays(whole) == []
