from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.loading import cache
from mixer_plugin.data.loading import decode as reading
from mixer_plugin.data.loading.cache import open_cache
from mixer_plugin.data.loading.decode import decode
from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from tests.unit.data.test_images import make_images

SIZE = (6, 4)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageList:
    monkeypatch.setattr(reading, "_CHUNK", 3)
    return make_images(tmp_path / "set", 10)


def _file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def _forbid_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(cache, "_write", refuse)


def test_written_once_and_equal_to_decode(
    images: ImageList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made" / "cache"
    seen: list[tuple[int, int]] = []
    pixels = open_cache(images, SIZE, folder, workers=3, progress=lambda *at: seen.append(at))
    assert torch.equal(pixels, decode(images, SIZE))
    assert seen == [(3, 10), (6, 10), (9, 10), (10, 10)]
    assert _file(folder).name.startswith("images-6x4-")
    _forbid_writing(monkeypatch)
    assert torch.equal(open_cache(images, SIZE, folder), pixels)


def test_changes_to_the_tensor_stay_out_of_the_file(images: ImageList, tmp_path: Path) -> None:
    pixels = open_cache(images, SIZE, tmp_path / "cache")
    before = pixels.clone()
    pixels.zero_()
    assert torch.equal(open_cache(images, SIZE, tmp_path / "cache"), before)


@pytest.mark.parametrize("change", ["size", "resample", "time", "content", "order", "version"])
def test_what_makes_another_cache(
    images: ImageList, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    open_cache(images, SIZE, folder)
    size, options = SIZE, {}
    if change == "size":
        size = (3, 4)
    elif change == "resample":
        options = {"resample": "bicubic"}
    elif change == "time":
        os.utime(images.paths[4], ns=(0, 5))
    elif change == "content":
        shutil.copy(images.paths[0], images.paths[4])
    elif change == "order":
        images = images.select(np.arange(10)[::-1])
    else:
        monkeypatch.setattr(cache, "_VERSION", 2)
    pixels = open_cache(images, size, folder, **options)  # type: ignore[arg-type]
    assert len(list(folder.iterdir())) == 2
    assert torch.equal(pixels, decode(images, size, **options))  # type: ignore[arg-type]


def test_a_moved_data_set_keeps_its_cache(
    images: ImageList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = open_cache(images, SIZE, tmp_path / "cache")
    moved = images.root.rename(tmp_path / "elsewhere")
    paths = tuple(str(moved / Path(path).relative_to(images.root)) for path in images.paths)
    there = ImageList(moved, paths, images.ids, images.cams, images.modality)
    _forbid_writing(monkeypatch)
    assert torch.equal(open_cache(there, SIZE, tmp_path / "cache"), pixels)


@pytest.mark.parametrize("fault", ["cut", "long", "foreign mark", "other shape", "text", "empty"])
def test_a_file_that_is_not_the_cache_is_written_anew(
    images: ImageList, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "cache"
    expected = open_cache(images, SIZE, folder).clone()
    path = _file(folder)
    whole = path.read_bytes()
    if fault == "cut":
        path.write_bytes(whole[:-100])
    elif fault == "long":
        path.write_bytes(whole + b"0")
    elif fault == "foreign mark":
        path.write_bytes(whole[:-64] + b"0" * 64)
    elif fault == "other shape":
        with path.open("wb") as file:
            np.save(file, np.zeros((2, 3), dtype=np.uint8))
    else:
        path.write_bytes(b"" if fault == "empty" else b"not an array")
    assert torch.equal(open_cache(images, SIZE, folder), expected)
    assert path.read_bytes() == whole


def test_a_damaged_image_is_named_and_leaves_nothing(images: ImageList, tmp_path: Path) -> None:
    broken = Path(images.paths[7])
    kept = broken.read_bytes()
    broken.write_bytes(kept[:40])
    with pytest.raises(MixERValueError, match=f"{broken} cannot be read as an image"):
        open_cache(images, SIZE, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    broken.unlink()
    with pytest.raises(MixERValueError, match=f"{broken} cannot be found"):
        open_cache(images, SIZE, tmp_path / "cache")
    broken.write_bytes(kept)
    assert torch.equal(open_cache(images, SIZE, tmp_path / "cache"), decode(images, SIZE))


def test_an_interrupted_writing_starts_again(images: ImageList, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    folder = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        open_cache(images, SIZE, folder, progress=interrupt)
    assert list(folder.iterdir()) == []
    assert torch.equal(open_cache(images, SIZE, folder), decode(images, SIZE))


def test_a_full_disk_is_explained(
    images: ImageList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(MixERRuntimeError, match=r"No space left on device.*It needs 0\.00 GB"):
        open_cache(images, SIZE, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_images(images: ImageList, tmp_path: Path) -> None:
    pixels = open_cache(images.select([]), SIZE, tmp_path / "cache")
    assert pixels.shape == (0, 3, 6, 4)
