"""Features written as they come: the bytes of ``FeatureSet.save``, whatever interrupts it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mixer_plugin import FeatureSet, evaluate, extract_features, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.data.datasets.own_images import read_own_images
from mixer_plugin.data.loading.decode import ImageDataset
from mixer_plugin.errors import MixERError, MixERTypeError, MixERValueError
from mixer_plugin.extraction import Reading, extract_to_file
from tests.unit.extraction.own_folders import crops, paint

READING = Reading(size=(16, 8), batch=4, workers=1)


class Net(nn.Module):
    """A small network of ResNet's form."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 2)
        self.score = nn.Flatten(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.fc(self.avgpool(self.layer4(x)).flatten(1))
        self.score(logits[:, :1])
        return logits


def network(wrapped: bool = True) -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    if wrapped:
        wrap_with_mixer(model, "f", num_classes=2, adapter=GenericAdapter(), seed=1)
    return model


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory):
    return read_own_images(crops(tmp_path_factory.mktemp("crops"), persons=5, each=3)).images


def stop_after(rows: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return progress


def test_the_file_is_that_of_features_in_memory(images, tmp_path: Path) -> None:
    model = network()
    model.train()
    told: list[tuple[int, int]] = []
    out = tmp_path / "x.npz"
    widths = extract_to_file(
        model, images, out, reading=READING, progress=lambda *done: told.append(done)
    )
    assert widths == {"erased": 8, "related": 8}
    assert told == [(min(done, 30), 30) for done in range(4, 33, 4)]
    assert model.training
    loader = torch.utils.data.DataLoader(ImageDataset(images, READING.size), READING.batch)
    extract_features(model, loader).save(tmp_path / "y.npz")
    assert out.read_bytes() == (tmp_path / "y.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npz", "y.npz"]


@pytest.mark.parametrize("rows", [4, 16, 30])
def test_interrupted_and_continued(images, tmp_path: Path, rows: int) -> None:
    model, out = network(), tmp_path / "x.npz"
    extract_to_file(model, images, tmp_path / "whole.npz", reading=READING)
    with pytest.raises(KeyboardInterrupt):
        extract_to_file(model, images, out, reading=READING, progress=stop_after(rows))
    assert not out.exists()
    left = tmp_path / "x.npz.part" / "0-of-1.erased"
    assert left.stat().st_size == rows * 8 * 4
    with left.open("ab") as file:
        file.write(b"half a row")
    told: list[int] = []
    extract_to_file(model, images, out, reading=READING, progress=lambda done, _: told.append(done))
    assert told == [*range(rows, 30, 4), 30]
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.npz", "x.npz"]


@pytest.mark.parametrize("change", ["weights", "size", "an image", "modality", "a lost card"])
def test_what_depends_on_something_else_is_done_anew(images, tmp_path: Path, change: str) -> None:
    model, out, reading = network(), tmp_path / "x.npz", READING
    own = read_own_images(crops(tmp_path / "crops", persons=5, each=3)).images
    with pytest.raises(KeyboardInterrupt):
        extract_to_file(model, own, out, reading=reading, progress=stop_after(20))
    kept = 0
    if change == "weights":
        with torch.no_grad():
            model.fc.bias.add_(1)
    elif change == "size":
        reading = Reading(size=(16, 9), batch=4)
    elif change == "an image":
        paint(Path(own.paths[9]), 77, grey=True)
        kept = 8
    elif change == "modality":
        own.modality[13] = 0
        kept = 12
    else:
        (tmp_path / "x.npz.part" / "0-of-1.json").unlink()
    told: list[int] = []
    extract_to_file(model, own, out, reading=reading, progress=lambda done, _: told.append(done))
    assert told[0] == (kept or 4)
    extract_to_file(model, own, tmp_path / "whole.npz", reading=reading)
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_an_image_that_cannot_be_read_costs_what_comes_after_it(tmp_path: Path) -> None:
    own = read_own_images(crops(tmp_path / "crops", persons=5, each=3)).images
    bad, out, model = Path(own.paths[18]), tmp_path / "x.npz", network()
    bad.write_bytes(b"no image")
    with pytest.raises(MixERValueError, match=rf"{bad.name} cannot be read"):
        extract_to_file(model, own, out, reading=READING)
    bad.unlink()
    own = own.select([row for row in range(30) if row != 18])
    told: list[int] = []
    extract_to_file(model, own, out, reading=READING, progress=lambda done, _: told.append(done))
    assert told == [16, 20, 24, 28, 29]
    assert len(FeatureSet.load(out)) == 29


def test_a_model_without_mixer(images, tmp_path: Path) -> None:
    model, out = network(wrapped=False), tmp_path / "x.npz"
    keys = list(model.state_dict())
    with pytest.raises(MixERTypeError, match=r"it is not wrapped\. .* --bare"):
        extract_to_file(model, images, out, reading=READING)
    widths = extract_to_file(model, images, out, reading=READING, bare=True, output="avgpool")
    assert widths == {"erased": 8, "related": None}
    found = FeatureSet.load(out)
    assert found.related is None
    assert list(model.state_dict()) == keys
    assert not model.avgpool._forward_hooks
    again = tmp_path / "y.npz"
    extract_to_file(
        model, images, again, reading=READING, bare=True, adapter=GenericAdapter("layer4")
    )
    assert torch.equal(FeatureSet.load(again).erased, found.erased)
    extract_to_file(network(), images, again, reading=READING, bare=True)
    assert FeatureSet.load(again).related is None
    assert torch.equal(FeatureSet.load(again).erased, found.erased)
    extract_to_file(model, images, again, reading=READING, bare=True, output="output")
    assert FeatureSet.load(again).erased.shape == (30, 2)
    assert len(evaluate(found, "full", settings=("cross", "mix"), rules=("erased",)).rows) == 2


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("layer4", r"gave \[4, 8, 7, 3\]; expected once, \[4, D\]"),
        ("avgpol", "Did you mean 'avgpool'"),
        ("score", r"gave \[4\]; expected once, \[4, D\]"),
    ],
)
def test_a_module_that_gives_no_embedding(
    images, tmp_path: Path, output: str, message: str
) -> None:
    model = network(wrapped=False)
    with pytest.raises(MixERError, match=message):
        extract_to_file(
            model, images, tmp_path / "x.npz", reading=READING, bare=True, output=output
        )
    assert model.training
    assert not model.layer4._forward_hooks


def test_a_forward_that_takes_more(images, tmp_path: Path) -> None:
    class Told(Net):
        def forward(self, x, side):
            return super().forward(x)

    with pytest.raises(MixERTypeError, match="does not take images alone"):
        extract_to_file(Told(), images, tmp_path / "x.npz", bare=True, output="avgpool")


def test_a_feature_that_is_not_finite_names_its_images(images, tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model.layer4[0].bias.fill_(np.inf)
    with pytest.raises(MixERValueError, match=r"images 0 to 3, from .*0\.png on: erased holds"):
        extract_to_file(model, images, tmp_path / "x.npz", reading=READING)


def test_times_and_half_precision(images, tmp_path: Path) -> None:
    times = np.arange(30.0)
    out, half = tmp_path / "x.npz", Reading(size=(16, 8), batch=4, precision="bf16")
    extract_to_file(network(), images, out, reading=READING, times=times)
    with np.load(out) as held:
        assert np.array_equal(held["time"], times)
    found = FeatureSet.load(out)
    extract_to_file(network(), images, out, reading=half)
    less = FeatureSet.load(out)
    assert less.erased.dtype == torch.float32
    assert not torch.equal(less.erased, found.erased)
    torch.testing.assert_close(less.erased, found.erased, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("name", "message"), [("x.npy", "name of a .npz file"), ("no/x.npz", "is not a folder")]
)
def test_files_that_cannot_be_written(images, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(MixERValueError, match=message):
        extract_to_file(network(), images, tmp_path / name, reading=READING)
    assert os.listdir(tmp_path) == []
