from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from mixer_plugin.data.datasets.findings import raise_errors
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.sysu import read_sysu
from mixer_plugin.data.datasets.sysu_checks import check_permutation
from mixer_plugin.data.loading.decode import ImageDataset, decode
from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.data.synthetic import SyntheticConfig, plan, write_layout
from mixer_plugin.errors import MixERValueError

CONFIG = SyntheticConfig(train_ids=3, val_ids=2, test_ids=3, height=32, width=16)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("sysu") / "set", CONFIG, "sysu").root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "set"))


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("train", [1, 2, 3]),
        ("val", [4, 5]),
        ("trainval", [1, 2, 3, 4, 5]),
        ("test", [6, 7, 8]),
    ],
)
def test_reads_what_was_written(written: Path, split: str, ids: list[int]) -> None:
    images = read_sysu(written, split)
    rows = plan(CONFIG)
    rows = np.sort(rows[np.isin(rows["pid"], ids)], order=["cam", "pid", "number"])
    assert images.ids.tolist() == rows["pid"].tolist()
    assert images.cams.tolist() == rows["cam"].tolist()
    assert [int(Path(path).stem) for path in images.paths] == rows["number"].tolist()
    assert images.modality.tolist() == np.isin(rows["cam"], (3, 6)).astype(int).tolist()
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in images.paths)


def test_labels_and_selection(written: Path) -> None:
    images = read_sysu(written, "test")
    labels, n_classes = images.labels()
    assert n_classes == 3
    np.testing.assert_array_equal(labels, images.ids - 6)
    infrared = images.select(images.modality == 1)
    assert set(infrared.cams.tolist()) == {3, 6}
    pair = images.select([5, 0])
    assert pair.paths == (images.paths[5], images.paths[0])
    with pytest.raises(MixERValueError, match="mask must have shape"):
        images.select(np.ones(2, dtype=bool))
    with pytest.raises(MixERValueError, match="Indices must be in"):
        images.select([len(images)])
    with pytest.raises(MixERValueError, match="cams must have one entry per path"):
        ImageList(written, ("a",), np.zeros(1), np.zeros(2), np.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(MixERValueError, match="modality must be 0"):
        ImageList(written, ("a",), np.ones(1), np.ones(1), np.full(1, 2))  # type: ignore[arg-type]


def test_images_are_sorted_by_number_not_by_name(root: Path) -> None:
    folder = root / "cam1/0001"
    (folder / "0001.jpg").rename(folder / "10.jpg")
    (folder / "0002.jpg").rename(folder / "9.jpg")
    numbers = [Path(p).stem for p in read_sysu(root, "train").paths if "cam1/0001" in p]
    assert numbers == ["0003", "0004", "9", "10"]


def test_mat_twin_is_read_where_the_text_is_absent(root: Path) -> None:
    text = root / "exp/test_id.txt"
    text.unlink()
    scipy.io.savemat(root / "exp/test_id.mat", {"id": np.asarray([[6, 8]], dtype=np.uint16)})
    assert set(read_sysu(root, "test").ids.tolist()) == {6, 8}
    scipy.io.savemat(root / "exp/test_id.mat", {"ids": np.asarray([[6, 8]])})
    with pytest.raises(MixERValueError, match="no variable 'id', only ids"):
        read_sysu(root, "test")


def test_unknown_split_and_missing_root(written: Path, tmp_path: Path) -> None:
    with pytest.raises(MixERValueError, match=r"Unknown split 'tests'. Did you mean 'test'"):
        read_sysu(written, "tests")
    with pytest.raises(MixERValueError, match="is not a folder"):
        read_sysu(tmp_path / "absent", "train")
    with pytest.raises(MixERValueError, match=r"no folder exp \(did you mean .*set\?\)"):
        read_sysu(written.parent, "train")


def test_split_file_faults(root: Path) -> None:
    path = root / "exp/train_id.txt"
    path.write_text("1,2,x7")
    with pytest.raises(MixERValueError, match=r"train_id.txt cannot be read.*'x7'.*1,2,5"):
        read_sysu(root, "train")
    path.write_text("")
    with pytest.raises(MixERValueError, match="it is empty"):
        read_sysu(root, "train")
    path.write_text("1,2,6,8")
    with pytest.raises(MixERValueError, match="both train_id and test_id: 6, 8"):
        read_sysu(root, "train")
    path.unlink()
    with pytest.raises(MixERValueError, match=r"train_id\.txt is missing.*comma separated"):
        read_sysu(root, "trainval")
    assert len(read_sysu(root, "test"))  # the fault of one split is no other's


def test_folder_faults(root: Path) -> None:
    for cam in range(1, 7):
        shutil.rmtree(root / f"cam{cam}/0002")
    with pytest.raises(MixERValueError, match="Identity 2 is in train_id but without a folder"):
        read_sysu(root, "train")
    (root / "cam4/0001/0001.jpg").rename(root / "cam4/0001/first.jpg")
    with pytest.raises(MixERValueError, match=r"names are not numbers: first.jpg"):
        read_sysu(root, "train")
    for path in (root / "cam5/0003").iterdir():
        path.unlink()
    with pytest.raises(MixERValueError, match=r"cam5/0003 is empty"):
        read_sysu(root, "train")


def test_training_needs_both_modalities_and_evaluation_does_not(root: Path) -> None:
    for identity in (1, 7):
        for cam in (3, 6):
            shutil.rmtree(root / f"cam{cam}/{identity:04d}")
    with pytest.raises(MixERValueError, match="Identity 1 is in train_id but without infrared"):
        read_sysu(root, "train")
    with pytest.raises(MixERValueError, match="rand_perm_cam draws test images that are not there"):
        read_sysu(root, "test")
    (root / "exp/rand_perm_cam.mat").unlink()
    assert 7 in read_sysu(root, "test").ids
    for cam in (1, 2, 4, 5):
        shutil.rmtree(root / f"cam{cam}/0005")
    with pytest.raises(MixERValueError, match="Identity 5 is in val_id but without visible"):
        read_sysu(root, "val")


def _draws(root: Path) -> dict[int, dict[int, np.ndarray]]:
    draws, findings = check_permutation(root)
    raise_errors(findings)
    return draws


def test_permutation(written: Path, root: Path) -> None:
    draws = _draws(written)
    assert sorted(draws) == [1, 2, 3, 4, 5, 6]
    assert draws[3][6].shape == (10, 4)
    assert sorted(draws[1][1][7].tolist()) == [1, 2, 3, 4]
    path = root / "exp/rand_perm_cam.mat"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(MixERValueError, match="not a readable MATLAB file"):
        _draws(root)
    scipy.io.savemat(path, {"perm": np.ones(3)})
    with pytest.raises(MixERValueError, match="no variable 'rand_perm_cam', only perm"):
        _draws(root)
    path.unlink()
    with pytest.raises(MixERValueError, match=r"rand_perm_cam\.mat is missing"):
        _draws(root)


def test_decode_keeps_pixels_and_order(written: Path) -> None:
    images = read_sysu(written, "test")
    seen: list[tuple[int, int]] = []
    pixels = decode(images, (32, 16), workers=2, progress=lambda *args: seen.append(args))
    assert pixels.shape == (len(images), 3, 32, 16)
    assert pixels.dtype == torch.uint8
    assert seen == [(len(images), len(images))]
    expected = np.asarray(Image.open(images.paths[7])).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels[7].numpy(), expected)
    smaller = decode(images, (16, 8))
    bicubic = decode(images, (16, 8), resample="bicubic")
    assert smaller.shape == bicubic.shape == (len(images), 3, 16, 8)
    assert (smaller != bicubic).any()
    shrunk = pixels.float().reshape(-1, 3, 16, 2, 8, 2).mean((3, 5))
    assert (smaller.float() - shrunk).abs().mean() < 5


def test_unreadable_images_are_named(root: Path) -> None:
    images = read_sysu(root, "val")
    broken = Path(images.paths[3])
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(MixERValueError, match=f"{broken} cannot be read as an image"):
        decode(images, (32, 16))
    broken.write_bytes(b"no image")
    with pytest.raises(MixERValueError, match=f"{broken} cannot be read as an image"):
        ImageDataset(images, (32, 16))[3]
    deep = broken.with_suffix(".png")
    Image.fromarray(np.full((32, 16), 4000, dtype=np.uint16)).save(deep)
    broken.unlink()
    with pytest.raises(MixERValueError, match="expected 8 bits per channel"):
        decode(read_sysu(root, "val"), (32, 16))


def test_dataset_items(written: Path) -> None:
    images = read_sysu(written, "train")
    pixels = decode(images, (32, 16))
    data = ImageDataset(images, (32, 16))
    image, label, cam, modality, path = data[9]
    torch.testing.assert_close(image, normalise(pixels[9:10], Augmentation())[0])
    assert (label, cam, modality, path) == (
        images.ids[9],
        images.cams[9],
        images.modality[9],
        images.paths[9],
    )
    labels, _ = images.labels()
    trained = ImageDataset(images, (32, 16), labels, transform=lambda x: x.sum().item())
    assert trained[9][0] == pixels[9].sum().item()
    assert trained[9][1] == labels[9]
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=4)))
    assert batch[0].shape == (4, 3, 32, 16)
    assert batch[1].tolist() == images.ids[:4].tolist()
    with pytest.raises(MixERValueError, match="one entry per image"):
        ImageDataset(images, (32, 16), labels[:3])
    with pytest.raises(MixERValueError, match="size must be"):
        ImageDataset(images, (0, 16))
    with pytest.raises(MixERValueError, match="resample must be"):
        decode(images, (32, 16), resample="nearest")  # type: ignore[arg-type]
