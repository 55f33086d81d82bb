"""Small data sets in the four released layouts, made of coloured and of grey noise."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

HEIGHT, WIDTH = 24, 12
TRAIN, TEST = (1, 2, 3), (5, 6, 7)


def pixels(infrared: bool, seed: int) -> np.ndarray:
    """uint8 [24, 12, 3]: grey where infrared."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 60, (HEIGHT, WIDTH, 1))
    colour = np.full(3, 90) if infrared else rng.permutation([20, 110, 190])
    return (noise + colour).astype(np.uint8)


def _save(path: Path, infrared: bool, count: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count[0] += 1
    Image.fromarray(pixels(infrared, count[0])).save(path)


def sysu(root: Path) -> None:
    """Train 1 to 3, val 4, test 5 to 7; three images per camera."""
    count = [0]
    for cam in range(1, 7):
        for identity in (*TRAIN, 4, *TEST):
            for number in (1, 2, 3):
                path = root / f"cam{cam}/{identity:04d}/{number:04d}.jpg"
                _save(path, cam in (3, 6), count)
    (root / "exp").mkdir()
    for split, ids in (("train", TRAIN), ("val", (4,)), ("test", TEST)):
        (root / f"exp/{split}_id.txt").write_text(",".join(map(str, ids)))
    draws = np.empty((6, 1), dtype=object)
    for cam in range(6):
        cell = np.empty((1, 7), dtype=object)
        for identity in range(7):
            rng = np.random.default_rng(identity)
            cell[0, identity] = np.stack([rng.permutation(3) + 1 for _ in range(10)])
        draws[cam, 0] = cell
    scipy.io.savemat(root / "exp/rand_perm_cam.mat", {"rand_perm_cam": draws})


def regdb(root: Path) -> None:
    """Six identities; in odd trials 1 to 3 are for training, in even ones 5 to 7."""
    count = [0]
    for modality, folder in enumerate(("Visible", "Thermal")):
        for identity in (*TRAIN, *TEST):
            for number in (1, 2, 3):
                _save(root / f"{folder}/{identity}/v_{number}_{identity}.bmp", modality == 1, count)
        for trial in range(1, 11):
            halves = (TRAIN, TEST) if trial % 2 else (TEST, TRAIN)
            for split, ids in zip(("train", "test"), halves, strict=True):
                lines = [
                    f"{folder}/{identity}/v_{number}_{identity}.bmp {label}"
                    for label, identity in enumerate(ids)
                    for number in (1, 2, 3)
                ]
                path = root / f"idx/{split}_{folder.lower()}_{trial}.txt"
                path.parent.mkdir(exist_ok=True)
                path.write_text("\n".join(lines) + "\n")


def llcm(root: Path) -> None:
    """Visible cameras 1 and 3, infrared ones 1 and 2; lists, and the test images by camera."""
    count = [0]
    for kind, cams in (("vis", (1, 3)), ("nir", (1, 2))):
        for split, ids in (("train", TRAIN), ("test", TEST)):
            lines = []
            for label, identity in enumerate(ids):
                for cam in cams:
                    for number in (1, 2):
                        name = f"{identity:04d}_c{cam:02d}_s200656_f{number}_{kind}.jpg"
                        path = root / f"{kind}/{identity:04d}/{name}"
                        _save(path, kind == "nir", count)
                        lines.append(f"{kind}/{identity:04d}/{name} {label}")
                        if split == "test":
                            copy = root / f"test_{kind}/cam{cam}/{identity:04d}/{name}"
                            copy.parent.mkdir(parents=True, exist_ok=True)
                            shutil.copy(path, copy)
            (root / "idx").mkdir(exist_ok=True)
            (root / f"idx/{split}_{kind}.txt").write_text("\n".join(lines))
    (root / "idx/test_id.txt").write_text(",".join(map(str, TEST)))


def market(root: Path) -> None:
    """Gallery with two distractors and two junk images."""
    count = [0]
    sides = {
        "bounding_box_train": TRAIN,
        "query": TEST,
        "bounding_box_test": (*TEST, 0, -1),
    }
    for folder, ids in sides.items():
        for identity in ids:
            for cam in (1, 2, 6):
                written = f"{identity:04d}" if identity >= 0 else "-1"
                name = f"{written}_c{cam}s1_{identity + 10:06d}_00.jpg"
                _save(root / folder / name, False, count)
        (root / folder / "Thumbs.db").write_bytes(b"not an image")


WRITERS = {"sysu": sysu, "regdb": regdb, "llcm": llcm, "market": market}
