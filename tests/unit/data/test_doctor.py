from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mixer_plugin.data.datasets import release
from mixer_plugin.data.datasets.doctor import diagnose
from mixer_plugin.data.datasets.findings import Finding
from mixer_plugin.data.datasets.sysu import read_sysu
from mixer_plugin.data.synthetic import SyntheticConfig, write_layout
from mixer_plugin.errors import MixERValueError
from mixer_plugin.releases import SYSU_IMAGES

CONFIG = SyntheticConfig(
    train_ids=3, val_ids=2, test_ids=3, height=32, width=16, infrared_per_camera=4
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("sysu") / "set", CONFIG, "sysu").root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "set"))


def _faults(root: Path, **options: bool) -> list[str]:
    return [str(f) for f in diagnose(root, "sysu", **options) if f.severity != "info"]  # type: ignore[arg-type]


def _only(root: Path, severity: str, *parts: str) -> None:
    """The folder has exactly one fault, and it names these parts."""
    faults = _faults(root)
    assert len(faults) == 1, faults
    assert faults[0].startswith(severity)
    for part in parts:
        assert part in faults[0]


def test_a_sound_set_has_only_counts(written: Path) -> None:
    seen: list[tuple[int, int]] = []
    findings = diagnose(written, "sysu", workers=2, progress=lambda *args: seen.append(args))
    assert {finding.severity for finding in findings} == {"info"}
    assert any(
        f.what.startswith("test: 3 identities; cam1 6 images of 3; cam2 6") for f in findings
    )
    assert seen == [(152, 152)]


def test_missing_root(tmp_path: Path) -> None:
    assert [f.severity for f in diagnose(tmp_path / "absent", "sysu")] == ["error"]
    assert "no folder exp" in diagnose(tmp_path, "sysu")[0].what


def test_only_exp_is_enough(root: Path) -> None:
    for cam in range(1, 7):
        shutil.rmtree(root / f"cam{cam}")
    findings = diagnose(root, "sysu")
    assert {finding.severity for finding in findings} == {"info"}
    assert "only exp was checked" in findings[0].what
    # Counts then come from the gallery draws.
    assert any("test: 3 identities; cam1 6 images of 3" in f.what for f in findings)


def test_missing_split_file(root: Path) -> None:
    (root / "exp/val_id.txt").unlink()
    _only(root, "error", "val_id.txt is missing", "comma separated")


def test_repeated_identity(root: Path) -> None:
    (root / "exp/val_id.txt").write_text("4,5,5")
    _only(root, "warning", "names identities twice: 5")


def test_missing_camera(root: Path) -> None:
    shutil.rmtree(root / "cam5")
    faults = _faults(root)
    assert any("lacks cam5" in fault for fault in faults)
    assert any("draws test images that are not there: cam5/0006" in fault for fault in faults)
    assert len(faults) == 2


def test_stray_folder(root: Path) -> None:
    (root / "cam1/backup").mkdir()
    _only(root, "warning", "Not identity folders", "cam1/backup")


def test_truncated_image(root: Path) -> None:
    path = root / "cam2/0003/0001.jpg"
    path.write_bytes(path.read_bytes()[:300])
    _only(root, "error", f"{path} cannot be read as an image")
    assert _faults(root, images=False) == []


def test_empty_files_are_faults_but_not_duplicates(root: Path) -> None:
    for identity in ("0001", "0003"):
        (root / f"cam2/{identity}/0001.jpg").write_bytes(b"")
    faults = _faults(root)
    assert len(faults) == 2
    assert all("cannot be read as an image" in fault for fault in faults)


def test_sixteen_bit_image(root: Path) -> None:
    path = root / "cam3/0003/0001.jpg"
    path.unlink()
    Image.fromarray(np.full((32, 16), 4000, dtype=np.uint16)).save(path.with_suffix(".png"))
    _only(root, "error", "expected 8 bits per channel", "cam3/0003/0001.png")


def test_grey_image_of_a_visible_camera(root: Path) -> None:
    for cam in (1, 3):  # in camera 3 it is as it should be
        path = root / f"cam{cam}/0003/0001.jpg"
        Image.open(path).convert("L").save(path)
    _only(root, "error", "greyscale file, although of a visible camera", "cam1/0003/0001.jpg")


def test_same_file_under_two_identities(root: Path) -> None:
    shutil.copy(root / "cam1/0001/0001.jpg", root / "cam1/0001/0005.jpg")  # one identity: no fault
    shutil.copy(root / "cam1/0001/0001.jpg", root / "cam2/0003/0001.jpg")
    _only(root, "error", "same file under several identities", "cam2/0003/0001.jpg")


def test_draws_and_images_disagree(root: Path) -> None:
    (root / "cam6/0007/0004.jpg").rename(root / "cam6/0007/0009.jpg")
    faults = _faults(root)
    assert len(faults) == 2
    assert "draws test images that are not there: cam6/0007/0004" in faults[0]
    assert "never draws these test images: cam6/0007/0009" in faults[1]


def _save_draws(root: Path, change: str) -> None:
    path = root / "exp/rand_perm_cam.mat"
    draws = scipy.io.loadmat(path)["rand_perm_cam"]
    if change == "cameras":
        draws = draws[:5]
    elif change == "trials":
        for cam in range(6):
            for j in range(8):
                draws[cam, 0][0, j] = draws[cam, 0][0, j][:4]
    elif change == "permutation":
        draws[2, 0][0, 5] = np.ones_like(draws[2, 0][0, 5])
    elif change == "identity":
        draws[2, 0][0, 5] = np.zeros((10, 0))
    scipy.io.savemat(path, {"rand_perm_cam": draws})


@pytest.mark.parametrize(
    ("change", "severity", "text"),
    [
        ("cameras", "error", "must have 6 cells, one per camera; it has 5"),
        ("trials", "warning", "holds 4 trials; the protocol averages 10"),
        ("identity", "error", "no draws for cam3/0006"),
    ],
)
def test_permutation_faults(root: Path, change: str, severity: str, text: str) -> None:
    _save_draws(root, change)
    _only(root, severity, text)


def test_broken_permutation(root: Path) -> None:
    _save_draws(root, "permutation")
    assert any(
        "camera 3: the trials of identity 6 are not permutations" in f for f in _faults(root)
    )


def test_missing_permutation(root: Path) -> None:
    (root / "exp/rand_perm_cam.mat").unlink()
    _only(root, "error", "rand_perm_cam.mat is missing")


def test_test_identity_of_one_modality_is_a_warning(root: Path) -> None:
    for cam in (3, 6):
        shutil.rmtree(root / f"cam{cam}/0006")
    faults = _faults(root)
    assert any(
        f.startswith("warning") and "Identity 6 is in test_id but without infrared" in f
        for f in faults
    )


@pytest.mark.parametrize(
    "fault", ["overlap", "unparsable", "no folder", "empty", "name", "modality"]
)
def test_reader_and_doctor_use_the_same_words(root: Path, fault: str) -> None:
    if fault == "overlap":
        (root / "exp/train_id.txt").write_text("1,2,3,7")
    elif fault == "unparsable":
        (root / "exp/train_id.txt").write_text("one,two")
    elif fault == "no folder":
        (root / "exp/train_id.txt").write_text("1,2,3,99")
    elif fault == "empty":
        for path in (root / "cam1/0002").iterdir():
            path.unlink()
    elif fault == "name":
        (root / "cam1/0002/0001.jpg").rename(root / "cam1/0002/a1.jpg")
    else:
        for cam in (3, 6):
            shutil.rmtree(root / f"cam{cam}/0002")
    with pytest.raises(MixERValueError) as caught:
        read_sysu(root, "train")
    errors = [
        f"{f.what} {f.fix}" for f in diagnose(root, "sysu", images=False) if f.severity == "error"
    ]
    assert str(caught.value).removeprefix(f"{root}: ") in errors
    assert str(root) in str(caught.value)


def test_release_counts() -> None:
    sizes = {"train": 296, "val": 99, "test": 96}
    counts = {split: dict(enumerate(known, start=1)) for split, known in SYSU_IMAGES.items()}
    assert sum(n for _, n in counts["test"].values()) == 6775 + 3803
    assert [f.severity for f in release.compare_sysu(sizes, counts)] == ["info"]
    assert release.compare_sysu({**sizes, "val": 98}, counts) == []
    counts["test"][4] = (94, 1917)
    findings = release.compare_sysu(sizes, counts)
    assert findings[1] == Finding(
        "warning",
        "test, cam4: 1917 images of 94 identities; SYSU-MM01 has 1918 of 94.",
        findings[1].fix,
    )
    counts["val"] = {cam: (1, 1) for cam in range(1, 7)}
    texts = [f.what for f in release.compare_sysu(sizes, counts)]
    assert "train and val together: 20288 visible images; SYSU-MM01 has 22258." in texts


def test_release_is_recognised_by_its_splits(tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    exp.mkdir()
    bounds = {"train": (1, 297), "val": (297, 396), "test": (396, 492)}
    for split, (first, last) in bounds.items():
        (exp / f"{split}_id.txt").write_text(",".join(map(str, range(first, last))))
    findings = diagnose(tmp_path, "sysu")
    assert any("sizes of SYSU-MM01's release" in f.what for f in findings)
