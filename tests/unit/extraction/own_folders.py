"""Small folders of images, coloured or grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def paint(path: Path, seed: int, *, grey: bool = False, size: tuple[int, int] = (32, 16)) -> Path:
    """Writes an image of random pixels: a person's colours, or shades of grey in RGB."""
    rng = np.random.default_rng(seed)
    shape = (*size, 1 if grey else 3)
    pixels = np.broadcast_to(rng.integers(0, 256, shape, dtype=np.uint8), (*size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path


def crops(root: Path, persons: int = 3, each: int = 2) -> Path:
    """``visible/cam1/0001/0.png`` …, ``infrared/cam2/0001/0.png`` …"""
    for side, camera in (("visible", 1), ("infrared", 2)):
        for person in range(1, persons + 1):
            for number in range(each):
                path = root / side / f"cam{camera}" / f"{person:04d}" / f"{number}.png"
                seed = 1000 * person + 10 * number + camera
                paint(path, seed, grey=side == "infrared")
    return root
