from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mixer_plugin.data.datasets import release
from mixer_plugin.data.datasets.doctor import diagnose
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.llcm import read_llcm
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.protocols import get_protocol
from mixer_plugin.features import FeatureSet
from tests.unit.data.small_roots import TEST, TRAIN, llcm


@pytest.fixture
def root(tmp_path: Path) -> Path:
    llcm(tmp_path / "LLCM")
    return tmp_path / "LLCM"


@pytest.mark.parametrize(("split", "ids"), [("train", TRAIN), ("test", TEST)])
def test_reads_the_lists(root: Path, split: str, ids: tuple[int, ...]) -> None:
    images = read_llcm(root, split)
    listed = {
        line.split(" ")[0]
        for kind in ("vis", "nir")
        for line in (root / f"idx/{split}_{kind}.txt").read_text().splitlines()
    }
    paths = [Path(path).relative_to(root).as_posix() for path in images.paths]
    assert sorted(paths) == sorted(listed)
    names = [path.rpartition("/")[2] for path in paths]
    assert [int(name[:4]) for name in names] == images.ids.tolist()
    assert [int(name[6:8]) for name in names] == images.cams.tolist()
    assert [name.endswith("nir.jpg") for name in names] == images.modality.tolist()
    assert sorted(set(images.ids.tolist())) == list(ids)
    rows = list(zip(images.modality, images.cams, images.ids, names, strict=True))
    assert rows == sorted(rows)


def _names(images: ImageList) -> list[tuple[str, int, int, int]]:
    rows = zip(images.paths, images.ids, images.cams, images.modality, strict=True)
    return [(Path(path).name, *map(int, labels)) for path, *labels in rows]


def test_copies_by_camera_are_read_where_there_are_no_test_lists(root: Path) -> None:
    by_lists = read_llcm(root, "test")
    for kind in ("vis", "nir"):
        (root / f"idx/test_{kind}.txt").unlink()
    by_camera = read_llcm(root, "test")
    assert all("/test_vis/cam" in path or "/test_nir/cam" in path for path in by_camera.paths)
    assert _names(by_camera) == _names(by_lists)
    said = [f.what for f in diagnose(root, images=False)]
    assert any("test is read from test_vis and test_nir" in what for what in said)
    # Only the identities of the list count, as in the public loaders.
    (root / "idx/test_id.txt").write_text("5,7\n")
    assert set(read_llcm(root, "test").ids.tolist()) == {5, 7}
    (root / "idx/test_id.txt").write_text("2,7\n")
    with pytest.raises(MixERValueError, match=r"both idx/train_\*.txt and idx/test_id.txt: 2"):
        read_llcm(root, "train")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("camera", r"cameras that LLCM has not: test_nir/cam3\. .* 1, 2, 4, 5, 6, 7, 8, 9 infr"),
        ("empty", "test_vis/cam1/0006 is empty"),
        ("identities", "test_id.txt is missing. Copy it from the release: the identities"),
        ("form", "test_id.txt cannot be read as identities"),
        ("unknown", "test_id.txt names identities without an image: 99"),
        ("absent", "has no test_vis.txt and test_nir.txt, and .* no test_nir"),
    ],
)
def test_faults_of_the_copies(root: Path, fault: str, words: str) -> None:
    for kind in ("vis", "nir"):
        (root / f"idx/test_{kind}.txt").unlink()
    if fault == "camera":
        shutil.copytree(root / "test_nir/cam1", root / "test_nir/cam3")
    elif fault == "empty":
        for path in (root / "test_vis/cam1/0006").iterdir():
            path.unlink()
    elif fault == "identities":
        (root / "idx/test_id.txt").unlink()
    elif fault == "form":
        (root / "idx/test_id.txt").write_text("five")
    elif fault == "unknown":
        (root / "idx/test_id.txt").write_text("5,6,7,99")
    else:
        shutil.rmtree(root / "test_nir")
    with pytest.raises(MixERValueError, match=words) as caught:
        read_llcm(root, "test")
    errors = [f"{f.what} {f.fix}" for f in diagnose(root) if f.severity == "error"]
    assert set(str(caught.value).split("\n")) <= set(errors)
    assert len(read_llcm(root, "train")) == 24


def test_lists_and_copies_that_differ_are_a_warning(root: Path) -> None:
    (root / "test_nir/cam2/0005/0005_c02_s200656_f1_nir.jpg").unlink()
    warnings = [f.what for f in diagnose(root) if f.severity == "warning"]
    assert warnings == [
        "idx/test_*.txt and the copies test_vis, test_nir differ: 0005_c02_s200656_f1_nir.jpg."
    ]


def test_faults_of_copies_that_are_not_read_are_warnings(root: Path) -> None:
    (root / "idx/test_id.txt").unlink()
    findings = [f for f in diagnose(root) if f.severity != "info"]
    assert [f.severity for f in findings] == ["warning"]
    assert "test_id.txt is missing" in findings[0].what
    assert len(read_llcm(root, "test")) == 24


def test_infrared_camera_3_is_no_test_camera(root: Path) -> None:
    for split, person in (("train", "0002"), ("test", "0005")):
        name = f"{person}_c02_s200656_f1_nir.jpg"
        third = name.replace("c02", "c03")
        (root / "nir" / person / name).rename(root / "nir" / person / third)
        path = root / f"idx/{split}_nir.txt"
        path.write_text(path.read_text().replace(name, third))
    assert (read_llcm(root, "train").cams == 3).sum() == 7
    with pytest.raises(MixERValueError, match="cameras that LLCM has not: nir/0005/0005_c03"):
        read_llcm(root, "test")


def test_fits_the_protocol(root: Path) -> None:
    images = read_llcm(root, "test")
    blank = np.ones((len(images), 2))
    features = FeatureSet(blank, None, images.ids, images.cams, images.modality, images.paths)
    assert len(get_protocol("llcm/sampled").draws(features)[0]) == 3 * 4


def test_unknown_split(root: Path) -> None:
    with pytest.raises(MixERValueError, match=r"Unknown split 'val'. Options: test, train"):
        read_llcm(root, "val")


def test_known_counts_are_those_of_the_protocol() -> None:
    def made(ids: int, visible: int, infrared: int) -> ImageList:
        modality = np.repeat((0, 1), (visible, infrared))
        count = np.arange(visible + infrared) - visible * modality
        paths = tuple(f"/r/{row}" for row in range(len(modality)))
        return ImageList(Path("/r"), paths, count % ids + 1, np.ones(len(count)), modality)  # type: ignore[arg-type]

    texts = [
        f.what for f in release.compare("llcm", made(713, 16946, 13975), made(351, 8680, 7166))
    ]
    assert texts == [
        "The splits have the sizes of LLCM's release (713 and 351).",
        "test: 351 pairs of identity and infrared camera; LLCM has 619.",
    ]
    texts = [
        f.what for f in release.compare("llcm", made(713, 16945, 13975), made(351, 8680, 7165))
    ]
    assert "train: 16945 visible images; LLCM has 16946." in texts
    assert "test: 7165 infrared images; LLCM has 7166." in texts
