"""Faults to plant in the data sets of ``small_roots``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import scipy.io
from PIL import Image

from tests.unit.data.small_roots import pixels

Plant = Callable[[Path], None]


def unlink(name: str) -> Plant:
    return lambda root: (root / name).unlink()


def remove(name: str) -> Plant:
    return lambda root: shutil.rmtree(root / name)


def empty(name: str) -> Plant:
    return lambda root: [path.unlink() for path in (root / name).iterdir()] and None


def copy(source: str, target: str) -> Plant:
    def act(root: Path) -> None:
        copy = shutil.copytree if (root / source).is_dir() else shutil.copy
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        copy(root / source, root / target)

    return act


def append(name: str, text: str) -> Plant:
    return lambda root: (root / name).write_text((root / name).read_text() + text) and None


def repaint(pattern: str, infrared: bool) -> Plant:
    def act(root: Path) -> None:
        for seed, path in enumerate(sorted(root.glob(pattern))):
            Image.fromarray(pixels(infrared, 1000 + seed)).save(path)

    return act


def swap(first: str, second: str) -> Plant:
    def act(root: Path) -> None:
        (root / first).rename(root / "aside")
        (root / second).rename(root / first)
        (root / "aside").rename(root / second)

    return act


def relist(root: Path) -> None:
    for trial in range(1, 11):
        swap(f"idx/train_visible_{trial}.txt", f"idx/train_thermal_{trial}.txt")(root)


def rename_llcm(root: Path) -> None:
    name = "0002_c01_s200656_f1_vis.jpg"
    (root / "vis/0002" / name).rename(root / "vis/0002" / name.replace("c01", "c10"))
    path = root / "idx/train_vis.txt"
    path.write_text(path.read_text().replace(name, name.replace("c01", "c10")))


def shorten(root: Path) -> None:
    path = root / "idx/train_thermal_1.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))


def draws(root: Path) -> None:
    path = root / "exp/rand_perm_cam.mat"
    draws = scipy.io.loadmat(path)["rand_perm_cam"]
    draws[2, 0][0, 5] += 1  # camera 3, identity 6: images 2, 3 and 4
    scipy.io.savemat(path, {"rand_perm_cam": draws})
