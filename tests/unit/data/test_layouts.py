from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mixer_plugin.data.datasets.doctor import diagnose
from mixer_plugin.data.datasets.layouts import detect_layout, read_images
from mixer_plugin.data.datasets.llcm import read_llcm
from mixer_plugin.data.datasets.market import read_market
from mixer_plugin.data.datasets.regdb import read_regdb
from mixer_plugin.data.datasets.sysu import read_sysu
from mixer_plugin.errors import MixERValueError
from tests.unit.data.small_roots import WRITERS

READERS = {"sysu": read_sysu, "regdb": read_regdb, "llcm": read_llcm, "market": read_market}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {layout: tmp_path_factory.mktemp("roots") / layout for layout in WRITERS}
    for layout, write in WRITERS.items():
        write(roots[layout])
    return roots


@pytest.mark.parametrize("layout", list(WRITERS))
def test_each_layout_is_recognised_and_read(written: dict[str, Path], layout: str) -> None:
    assert detect_layout(written[layout]) == layout
    for split in ("train", "test"):
        found, expected = (
            read_images(written[layout], split),
            READERS[layout](written[layout], split),
        )
        assert found.paths == expected.paths
        assert found.ids.tolist() == expected.ids.tolist()


def test_trials_are_regdbs(written: dict[str, Path]) -> None:
    found = read_images(written["regdb"], "train", trial=2)
    assert found.paths == read_regdb(written["regdb"], "train", 2).paths
    assert found.paths != read_images(written["regdb"], "train").paths
    with pytest.raises(MixERValueError, match="Only RegDB has trials; LLCM was read with trial=2"):
        read_images(written["llcm"], "train", trial=2)


@pytest.mark.parametrize(
    ("layout", "lost"),
    [
        ("sysu", ["exp"]),
        ("sysu", [f"cam{cam}" for cam in range(1, 7)]),
        ("regdb", ["idx"]),
        ("regdb", ["Visible", "Thermal"]),
        ("llcm", ["idx", "test_vis", "test_nir"]),
        ("llcm", ["vis", "nir", "test_vis", "test_nir"]),
        ("market", ["query", "bounding_box_test"]),
    ],
)
def test_recognised_by_parts(
    written: dict[str, Path], layout: str, lost: list[str], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(written[layout], tmp_path / layout))
    for name in lost:
        shutil.rmtree(root / name)
    assert detect_layout(root) == layout


def test_a_folder_of_no_layout(written: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(MixERValueError) as caught:
        detect_layout(tmp_path)
    text = str(caught.value)
    assert "no part of a known data set: SYSU-MM01 needs exp, cam1 ... cam6; RegDB needs" in text
    assert "LLCM needs vis, nir, idx/train_vis.txt …; Market-1501 needs" in text
    assert text.endswith("it has pictures.")
    assert [f"{f.what} {f.fix}" for f in diagnose(tmp_path)] == [text]
    with pytest.raises(MixERValueError, match=r"did you mean .*regdb\?"):
        detect_layout(written["regdb"].parent)
    with pytest.raises(MixERValueError, match="absent is not a folder"):
        read_images(tmp_path / "absent", "train")


def test_parts_of_two_layouts(written: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(written["regdb"], tmp_path / "both"))
    (root / "query").mkdir()  # RegDB is whole, Market-1501 is not
    assert detect_layout(root) == "regdb"
    shutil.rmtree(root / "Thermal")
    with pytest.raises(MixERValueError) as caught:
        detect_layout(root)
    assert "has parts of regdb and market: RegDB needs" in str(caught.value)
    assert "(missing: Thermal)" in str(caught.value)
    assert "(missing: bounding_box_train, bounding_box_test)" in str(caught.value)
    with pytest.raises(MixERValueError, match="Thermal/1"):
        read_images(root, "train", layout="regdb")


def test_unknown_layout(written: dict[str, Path]) -> None:
    with pytest.raises(MixERValueError, match=r"Unknown layout 'sys'. Did you mean 'sysu'"):
        read_images(written["sysu"], "train", layout="sys")
    with pytest.raises(MixERValueError, match="Unknown layout 'market1501'"):
        diagnose(written["market"], "market1501")


def test_a_folder_that_may_not_be_entered(
    written: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tests may run as root, whom no permission stops: the system's answer is simulated.
    def refuse(path: str | os.PathLike[str]) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    root = written["market"]
    with pytest.raises(MixERValueError, match=r"market cannot be opened \(Permission denied\)"):
        detect_layout(root)
    assert "cannot be opened (Permission denied)" in diagnose(root)[0].what
