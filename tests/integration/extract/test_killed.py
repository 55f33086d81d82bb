"""An extraction of thousands of images: killed three times, shared, and flat in memory."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixer_plugin import FeatureSet
from tests.processes import ROOT, ends, start

IMAGES, BATCH, WIDTH = 3000, 20, 256
MODULE = f"""
import os
import time
import torch
from torch import nn


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 4, {WIDTH})

    def forward(self, x):
        return self.fc(x.flatten(1))


class Fat(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 4, 8192)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Slow(Wide):
    def forward(self, x):
        time.sleep(0.01)
        if "COUNT" in os.environ:
            with open(os.environ["COUNT"], "a") as file:
                file.write(f"{{len(x)}}\\n")
        return super().forward(x)


def fat():
    torch.manual_seed(0)
    return Fat()


def slow():
    torch.manual_seed(0)
    return Slow()
"""
PEAK = """
import resource, sys
from mixer_plugin.cli import main
status = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small crops of both modalities, and a module of networks."""
    root = tmp_path_factory.mktemp("extract")
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        side = ("visible", "infrared")[number % 2]
        path = root / "crops" / side / f"cam{1 + number % 2}" / f"{number // 6:04d}"
        path.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.bmp")
    (root / "many_networks.py").write_text(MODULE)
    return root


def words(folder: Path, out: str, model: str = "slow", images: str = "crops") -> list[object]:
    given = ["extract", "--model", f"many_networks:{model}", "--bare", "--embed", "output"]
    given += ["--images", folder / images, "--size", "8x4", "--batch", BATCH, "--workers", 1]
    return [*given, "--out", folder / out]


def paths(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))}


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    """What an extraction writes that nothing interrupts."""
    ((status, _, err),) = ends(
        [start("-m", "mixer_plugin.cli", *words(folder, "whole.npz"), **paths(folder))]
    )
    assert status == 0, err
    return (folder / "whole.npz").read_bytes()


def test_killed_at_three_points_the_file_is_the_same(folder: Path, whole: bytes) -> None:
    command = ("-m", "mixer_plugin.cli", *words(folder, "x.npz"))
    part = folder / "x.npz.part" / "0-of-1.erased"
    reached = 0
    for share, how in ((0.1, signal.SIGINT), (0.4, signal.SIGKILL), (0.7, signal.SIGTERM)):
        process = start(*command, **paths(folder))
        while process.poll() is None and not (
            part.is_file() and part.stat().st_size >= share * IMAGES * WIDTH * 4
        ):
            time.sleep(0.002)
        os.kill(process.pid, how)
        ((status, _, err),) = ends([process])
        assert status == (130 if how == signal.SIGINT else -how), err
        assert not (folder / "x.npz").exists()
        rows = part.stat().st_size // (WIDTH * 4)
        assert reached < rows < IMAGES
        reached = rows
        if how == signal.SIGINT:
            assert f"Finished images are in {folder / 'x.npz'}.part" in err
    count = folder / "count.txt"
    ((status, out, err),) = ends([start(*command, COUNT=str(count), **paths(folder))])
    assert status == 0, err
    assert f"{IMAGES} images, erased {WIDTH}" in out
    again = sum(map(int, count.read_text().split()))
    assert IMAGES - reached <= again <= IMAGES - reached + BATCH  # the batch that was under way
    assert (folder / "x.npz").read_bytes() == whole
    assert not part.parent.exists()


def test_two_processes_write_the_same_file(folder: Path, whole: bytes) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    command = (*launcher, "-m", "mixer_plugin.cli", *words(folder, "two.npz"))
    ((status, out, err),) = ends([start(*command, **paths(folder))])
    assert status == 0, err
    assert out.count("two.npz") == 1
    assert (folder / "two.npz").read_bytes() == whole
    assert not (folder / "two.npz.part").exists()


def test_memory_does_not_grow_with_the_images(folder: Path, whole: bytes) -> None:
    """Twelve times the images: 90 MB of features more, a quarter of that in memory at most."""
    names = FeatureSet.load(folder / "whole.npz").paths
    lines = ["path,modality", *(f"{Path(name).relative_to(folder)},0" for name in names)]
    peaks = []
    for images in (IMAGES // 12, IMAGES):
        (folder / "some.csv").write_text("\n".join(lines[: images + 1]))
        command = words(folder, "fat.npz", "fat", "some.csv")
        ((status, out, err),) = ends([start("-c", PEAK, *command, **paths(folder))])
        assert status == 0, err
        peaks.append(int(out.split("peak")[1]))
    assert (folder / "fat.npz").stat().st_size > 90e6
    assert peaks[1] - peaks[0] < 22e3  # kilobytes
