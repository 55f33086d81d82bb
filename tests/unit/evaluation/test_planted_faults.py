"""Faults in a data set are named by the doctor and stop reading or decoding in the same words."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixer_plugin.cli import main
from mixer_plugin.data.datasets.doctor import diagnose
from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.data.loading.decode import decode
from mixer_plugin.data.loading.script_arrays import write_script_arrays
from mixer_plugin.errors import MixERValueError
from tests.unit.data.small_roots import HEIGHT, WIDTH, WRITERS
from tests.unit.evaluation import plant

FAULTS: dict[str, tuple[str, plant.Plant, str, str]] = {
    "sysu missing split file": (
        "train",
        plant.unlink("exp/train_id.txt"),
        "sysu",
        "train_id.txt is missing",
    ),
    "sysu extra camera": (
        "test",
        plant.copy("cam1", "cam7"),
        "sysu",
        "cameras that SYSU-MM01 has not: cam7",
    ),
    "sysu swapped modality": (
        "train",
        plant.swap("cam3", "cam4"),
        "sysu",
        "images of infrared camera 3 are coloured",
    ),
    "sysu swapped modality, visible": (
        "test",
        plant.swap("cam3", "cam4"),
        "sysu",
        "images of visible camera 4 are grey",
    ),
    "sysu empty identity": ("train", plant.empty("cam2/0002"), "sysu", "cam2/0002 is empty"),
    "sysu wrong permutation": (
        "test",
        plant.draws,
        "sysu",
        "draws test images that are not there: cam3/0006/0004",
    ),
    "sysu overlap": (
        "train",
        plant.append("exp/train_id.txt", ",6"),
        "sysu",
        "both train_id and test_id: 6",
    ),
    "regdb missing split file": (
        "train",
        plant.unlink("idx/train_thermal_1.txt"),
        "regdb",
        "train_thermal_1.txt is missing. Copy it from the release",
    ),
    "regdb swapped folders": (
        "train",
        plant.swap("Visible", "Thermal"),
        "regdb",
        "Thermal: nearly all images of infrared camera 2 are coloured",
    ),
    "regdb swapped lists": (
        "train",
        plant.relist,
        "regdb",
        "train_visible_1.txt names images of the other modality: Thermal/1",
    ),
    "regdb empty identity": ("test", plant.empty("Thermal/6"), "regdb", "Thermal/6 is empty"),
    "regdb missing identity": (
        "test",
        plant.remove("Thermal/6"),
        "regdb",
        "test_thermal_1.txt names folders that are not there: Thermal/6",
    ),
    "regdb missing image": (
        "train",
        plant.unlink("Visible/2/v_1_2.bmp"),
        "regdb",
        "train_visible_1.txt names images that are not there: Visible/2/v_1_2.bmp",
    ),
    "regdb overlap": (
        "test",
        plant.append("idx/train_visible_1.txt", "Visible/6/v_1_6.bmp 3\n"),
        "regdb",
        "both idx/train_*_1.txt and idx/test_*_1.txt: 6",
    ),
    "regdb broken line": (
        "train",
        plant.append("idx/train_visible_1.txt", "Visible/one.bmp\n"),
        "regdb",
        "train_visible_1.txt cannot be read in line 10",
    ),
    "regdb label": (
        "train",
        plant.append("idx/train_visible_1.txt", "Visible/3/v_1_3.bmp 0\n"),
        "regdb",
        "labels do not fit the identity folders: 3, 0",
    ),
    "regdb one modality": (
        "train",
        plant.shorten,
        "regdb",
        "Identity 3 is in the lists idx/train_*_1.txt but without infrared images",
    ),
    "llcm missing split file": (
        "test",
        plant.unlink("idx/test_nir.txt"),
        "llcm",
        "test_nir.txt is missing. Copy it from the release",
    ),
    "llcm extra camera": (
        "train",
        plant.rename_llcm,
        "llcm",
        "cameras that LLCM has not: vis/0002/0002_c10",
    ),
    "llcm swapped folders": (
        "train",
        plant.repaint("nir/*/*.jpg", False),
        "llcm",
        "nir: nearly all images of infrared camera 1 are coloured",
    ),
    "llcm swapped lists": (
        "train",
        plant.swap("idx/train_vis.txt", "idx/train_nir.txt"),
        "llcm",
        "train_vis.txt names images of the other modality",
    ),
    "llcm empty identity": ("train", plant.empty("vis/0003"), "llcm", "vis/0003 is empty"),
    "llcm overlap": (
        "train",
        plant.append("idx/train_vis.txt", "\nvis/0006/0006_c01_s200656_f1_vis.jpg 3"),
        "llcm",
        "both idx/train_*.txt and idx/test_*.txt: 6",
    ),
    "llcm nameless": (
        "train",
        plant.append("idx/train_vis.txt", "\nvis/0003/0003_s200656_f1_vis.jpg 2"),
        "llcm",
        "name images without a camera: vis/0003/0003_s2",
    ),
    "market missing folder": (
        "train",
        plant.remove("bounding_box_train"),
        "market",
        "bounding_box_train is missing. It should hold images such as",
    ),
    "market extra camera": (
        "gallery",
        plant.copy("query/0005_c1s1_000015_00.jpg", "bounding_box_test/0005_c7s1_000099_00.jpg"),
        "market",
        "cameras that Market-1501 has not: 0005_c7",
    ),
    "market swapped modality": (
        "query",
        plant.repaint("query/*_c2*.jpg", True),
        "market",
        "query: nearly all images of visible camera 2 are grey",
    ),
    "market empty folder": ("query", plant.empty("query"), "market", "query is empty"),
    "market overlap": (
        "train",
        plant.copy("query/0005_c1s1_000015_00.jpg", "bounding_box_train/0005_c1s1_000015_01.jpg"),
        "market",
        "both bounding_box_train and query: 5",
    ),
    "market junk in query": (
        "query",
        plant.copy("bounding_box_test/-1_c1s1_000009_00.jpg", "query/-1_c1s1_000009_01.jpg"),
        "market",
        "query holds junk (-1) or distractors (0): -1_c1",
    ),
    "market name": (
        "train",
        plant.copy("query/0005_c1s1_000015_00.jpg", "bounding_box_train/me.jpg"),
        "market",
        "images without identity and camera: me.jpg",
    ),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {layout: tmp_path_factory.mktemp("roots") / layout for layout in WRITERS}
    for layout, write in WRITERS.items():
        write(roots[layout])
    return roots


@pytest.fixture
def copied(written: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda layout: Path(shutil.copytree(written[layout], tmp_path / layout))


def _errors(root: Path, layout: str) -> list[str]:
    return [f"{f.what} {f.fix}" for f in diagnose(root, layout) if f.severity == "error"]


@pytest.mark.parametrize("layout", list(WRITERS))
def test_sound_sets_have_no_faults(written: dict[str, Path], layout: str) -> None:
    findings = diagnose(written[layout], workers=2)
    assert [str(f) for f in findings if f.severity != "info"] == []
    assert "has the layout of" in findings[0].what
    assert any(f.what.startswith("train: 3 identities") for f in findings)
    assert any(f.what.startswith("test: 3 identities") or layout == "market" for f in findings)


@pytest.mark.parametrize("name", list(FAULTS))
def test_doctor_names_it_and_reading_stops(name: str, copied: Callable[[str], Path]) -> None:
    split, damage, layout, words = FAULTS[name]
    root = copied(layout)
    damage(root)
    errors = _errors(root, layout)
    assert any(words in error for error in errors), errors
    with pytest.raises(MixERValueError) as caught:
        read_images(root, split, layout=layout)
    assert words in str(caught.value)
    said = str(caught.value).removeprefix(f"{root}: ").split("\n")
    assert set(said) <= set(errors)
    assert str(root) in str(caught.value)


def test_the_command_ends_with_status_1(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied("llcm")
    assert main(["doctor", str(root)]) == 0
    (root / "idx/train_vis.txt").unlink()
    assert main(["doctor", str(root), "--layout", "llcm", "--no-images"]) == 1
    assert "train_vis.txt is missing" in capsys.readouterr().out
    assert main(["doctor", str(root), "--layout", "lcm"]) == 2
    assert "Did you mean 'llcm'" in capsys.readouterr().err


IMAGES = {
    "sysu": "cam4/0002/0001.jpg",
    "regdb": "Visible/2/v_1_2.bmp",
    "llcm": "vis/0002/0002_c03_s200656_f2_vis.jpg",
    "market": "bounding_box_train/0002_c2s1_000012_00.jpg",
}


def _damage(path: Path, fault: str) -> str:
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:400])
        return f"{path} cannot be read as an image"
    if fault == "not an image":
        path.write_bytes(b"")
        return f"{path} cannot be read as an image"
    if fault == "16 bits":
        deep = np.full((HEIGHT, WIDTH), 4000, dtype=np.uint16)
        Image.fromarray(deep).save(path, format="PNG")
        return f"{path} has I;16 pixels; expected 8 bits per channel."
    Image.open(path).convert("L").save(path)
    return f"{path} is a greyscale file, although of a visible camera."


@pytest.mark.parametrize("layout", list(WRITERS))
@pytest.mark.parametrize("fault", ["truncated", "not an image", "16 bits", "greyscale"])
def test_faults_of_pixels_stop_decoding(
    layout: str, fault: str, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    root = copied(layout)
    words = _damage(root / IMAGES[layout], fault)
    errors = _errors(root, layout)
    assert len(errors) == 1
    assert words in errors[0]
    images = read_images(root, "train", layout=layout)
    if layout != "market":  # whose images are all visible: there are no such arrays
        with pytest.raises(MixERValueError) as caught:
            write_script_arrays(images, tmp_path, (HEIGHT, WIDTH))
        assert str(caught.value) == errors[0]
        assert not list(tmp_path.glob("*.npy"))
    with pytest.raises(MixERValueError) as caught:
        decode(images, (HEIGHT, WIDTH))
    assert str(caught.value) == errors[0]


# Tests may run as root, whom no permission stops: the system's answer is simulated.
@pytest.mark.parametrize(
    ("layout", "folder"),
    [
        ("sysu", "cam2/0002"),
        ("sysu", "exp"),
        ("sysu", ""),
        ("regdb", "Visible/2"),
        ("llcm", "vis/0002"),
        ("market", "bounding_box_train"),
    ],
)
def test_unreadable_folder(
    layout: str, folder: str, written: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = written[layout]
    scan = os.scandir

    def refuse(path: str | os.PathLike[str] = ".") -> object:
        if Path(path) == root / folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    words = f"{root / folder} cannot be opened (Permission denied). Give yourself the right"
    assert any(error.startswith(words) for error in _errors(root, layout))
    with pytest.raises(MixERValueError) as caught:
        read_images(root, "train", layout=layout)
    assert str(caught.value).startswith(words)


def test_unreadable_split_file(written: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = written["regdb"]
    target = root / "idx/train_visible_1.txt"
    read = Path.read_text

    def refuse(path: Path, *args: object, **options: object) -> str:
        if path == target:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    words = f"{target} cannot be opened (Permission denied)."
    assert any(error.startswith(words) for error in _errors(root, "regdb"))
    with pytest.raises(MixERValueError, match="Permission denied"):
        read_images(root, "train", layout="regdb")
