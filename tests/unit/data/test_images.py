from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.loading import decode as module
from mixer_plugin.data.loading.decode import decode
from mixer_plugin.errors import MixERValueError


def make_images(root: Path, number: int, size: tuple[int, int] = (6, 4)) -> ImageList:
    """PNG files of random pixels, ids and cameras made up."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(number):
        path = root / f"cam{1 + i % 2}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    rows = np.arange(number)
    return ImageList(root, tuple(paths), rows // 4, 1 + rows % 2, rows % 2)


@pytest.mark.parametrize("workers", [1, 3])
def test_decode_in_chunks_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 3)
    images = make_images(tmp_path, 10)
    seen: list[tuple[int, int]] = []
    pixels = decode(images, (6, 4), workers=workers, progress=lambda *at: seen.append(at))
    for row, path in enumerate(images.paths):
        expected = np.asarray(Image.open(path)).transpose(2, 0, 1)
        np.testing.assert_array_equal(pixels[row].numpy(), expected)
    assert seen == [(3, 10), (6, 10), (9, 10), (10, 10)]


def test_decode_nothing(tmp_path: Path) -> None:
    pixels = decode(make_images(tmp_path, 0), (6, 4))
    assert pixels.shape == (0, 3, 6, 4)
    assert pixels.dtype == torch.uint8


def test_decode_refuses(tmp_path: Path) -> None:
    with pytest.raises(MixERValueError, match="workers must be at least 1, got 0"):
        decode(make_images(tmp_path, 2), (6, 4), workers=0)
