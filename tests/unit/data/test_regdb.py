from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mixer_plugin.data.datasets import release
from mixer_plugin.data.datasets.doctor import diagnose
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.regdb import read_regdb
from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.protocols import get_protocol
from mixer_plugin.features import FeatureSet
from tests.unit.data.small_roots import TEST, TRAIN, regdb


@pytest.fixture
def root(tmp_path: Path) -> Path:
    regdb(tmp_path / "RegDB")
    return tmp_path / "RegDB"


@pytest.mark.parametrize("trial", [1, 2, 10])
def test_reads_the_lists_of_a_trial(root: Path, trial: int) -> None:
    halves = (TRAIN, TEST) if trial % 2 else (TEST, TRAIN)
    for split, ids in zip(("train", "test"), halves, strict=True):
        images = read_regdb(root, split, trial)
        listed = {
            line.split(" ")[0]
            for kind in ("visible", "thermal")
            for line in (root / f"idx/{split}_{kind}_{trial}.txt").read_text().splitlines()
        }
        paths = [Path(path).relative_to(root).as_posix() for path in images.paths]
        assert sorted(paths) == sorted(listed)
        assert [int(path.split("/")[1]) for path in paths] == images.ids.tolist()
        assert [path.startswith("Thermal/") for path in paths] == images.modality.tolist()
        assert images.cams.tolist() == (images.modality + 1).tolist()
        assert sorted(set(images.ids.tolist())) == list(ids)
        assert images.labels()[1] == 3
        assert paths == sorted(paths, key=lambda p: (p.startswith("Thermal"), p))


def test_fits_the_protocol(root: Path) -> None:
    images = read_regdb(root, "test", 3)
    blank = np.ones((len(images), 2))
    features = FeatureSet(blank, None, images.ids, images.cams, images.modality, images.paths)
    get_protocol("regdb/3").check(features, settings=("cross", "mix-cam"))


def test_unknown_split_and_trial(root: Path) -> None:
    with pytest.raises(MixERValueError, match=r"Unknown split 'trian'. Did you mean 'train'"):
        read_regdb(root, "trian")
    for trial in (0, 11):
        with pytest.raises(MixERValueError, match=f"trial must be 1 to 10, got {trial}"):
            read_regdb(root, "train", trial)


def test_the_lists_of_one_half_do_not_stop_the_other(root: Path) -> None:
    (root / "idx/test_visible_1.txt").unlink()
    assert len(read_regdb(root, "train")) == 18
    (root / "idx/train_visible_2.txt").unlink()
    assert len(read_regdb(root, "train", 1)) == 18
    errors = [f.what for f in diagnose(root) if f.severity == "error"]
    assert [what.rpartition("/")[2] for what in errors] == [
        "test_visible_1.txt is missing.",
        "train_visible_2.txt is missing.",
    ]


def test_repetitions_and_a_test_identity_of_one_modality_are_warnings(root: Path) -> None:
    path = root / "idx/test_visible_1.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:6], lines[0]]))
    images = read_regdb(root, "test")
    assert len(images) == 6 + 9
    warnings = [str(f) for f in diagnose(root) if f.severity == "warning"]
    assert "test_visible_1.txt names 1 images more than once" in warnings[0]
    assert "Identity 7 is in the lists idx/test_*_1.txt but without visible images" in warnings[1]
    path.write_text("\n")
    with pytest.raises(MixERValueError, match=r"test_visible_1.txt is empty"):
        read_regdb(root, "test")


def _list(ids: range, images: int) -> ImageList:
    each = np.repeat(np.asarray(ids), 2 * images)
    modality = np.tile(np.repeat((0, 1), images), len(ids))
    paths = tuple(f"/r/{row}" for row in range(len(each)))
    return ImageList(Path("/r"), paths, each, modality + 1, modality)


def test_known_counts() -> None:
    train, test = _list(range(206), 10), _list(range(206, 412), 10)
    findings = release.compare("regdb", train, test)
    assert [str(f) for f in findings] == [
        "info: The splits have the sizes of RegDB's release (206 and 206)."
    ]
    one_less = test.select(np.arange(1, len(test)))
    texts = [f.what for f in release.compare("regdb", train.select(np.arange(4119)), one_less)]
    assert texts[1] == "train: 2059 infrared images; RegDB has 2060."
    assert texts[2] == ("test: 205 identities with 10 images in each modality; RegDB has 206.")
    assert release.compare("regdb", _list(range(205), 10), test) == []
