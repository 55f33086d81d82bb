"""Batches of a loader: each field is told by what it holds, and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mixer_plugin import evaluate, extract_features, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.adapters.evaluation_call import evaluation_trouble
from mixer_plugin.errors import MixERError, MixERTypeError, MixERValueError

IDS, CAMS = [0, 0, 1, 1], [1, 3, 1, 3]
PATHS = [f"a{row}.jpg" for row in range(4)]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer4 = nn.Conv2d(3, 8, 3)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.avgpool(self.layer4(x)).flatten(1))


class Told(Net):
    def forward(self, x, side):
        return super().forward(x)


def wrapped(model=None, **options):
    adapter = GenericAdapter("layer4", "avgpool", **options)
    return wrap_with_mixer(model or Net(), mode="e2e", adapter=adapter, num_classes=2)


def ask(*more, ids=IDS, cams=CAMS, images=None, model=None):
    images = torch.randn(4, 3, 8, 6) if images is None else images
    found = extract_features(model or wrapped(), [(images, ids, cams, *more)])
    return found.modality.tolist(), found.paths


INVERTED = [1, 0, 1, 0]


@pytest.mark.parametrize(
    "given",
    [
        torch.tensor(INVERTED),
        np.array(INVERTED),
        INVERTED,
        tuple(INVERTED),
        np.array(INVERTED, dtype=np.float32),
        ["infrared", "visible"] * 2,
        np.array(["IR", "rgb"] * 2),
    ],
)
def test_a_fourth_entry_of_modalities(given):
    assert ask(given) == (INVERTED, None)
    assert ask(given, PATHS) == (INVERTED, tuple(PATHS))
    assert ask(given, torch.arange(4)) == (INVERTED, None)  # numbers of samples are no paths


@pytest.mark.parametrize("given", [PATHS, tuple(PATHS), np.array(PATHS), [*map(Path, PATHS)]])
def test_a_fourth_entry_of_paths(given):
    assert ask(given) == ([0, 1, 0, 1], tuple(PATHS))
    assert ask(None, given) == ([0, 1, 0, 1], tuple(PATHS))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (torch.full((4,), 0.9), MixERValueError),
        ([1, 0, 1], MixERValueError),
        ([1, 2, 1, 2], MixERValueError),
        (np.array([True, False] * 2), MixERTypeError),
        (torch.tensor([True, False] * 2), MixERTypeError),
        ({"a": 1}, MixERTypeError),
    ],
)
def test_what_is_no_modality_is_refused(given, error):
    with pytest.raises(error, match="modality"):
        ask(given)


@pytest.mark.parametrize("cams", [[0, 2, 0, 2], [7, 8, 7, 8], [-1, 1, -1, 1]])
def test_cameras_of_other_data_sets_tell_no_modality(cams):
    with pytest.raises(MixERValueError, match="hold no modality, and camera"):
        ask(cams=cams)
    assert ask([0, 1, 0, 1], cams=cams)[0] == [0, 1, 0, 1]


def test_other_fields_are_checked():
    for options in ({"cams": ["c1", "c3"] * 2}, {"ids": [0.5] * 4}, {"ids": [0, 1]}):
        with pytest.raises(MixERError, match=next(iter(options))):
            ask(**options)
    with pytest.raises(MixERTypeError, match="images of a batch must be a tensor"):
        ask(images=np.zeros((4, 3, 8, 6)))
    batch = {"images": torch.randn(4, 3, 8, 6), "ids": IDS, "cams": CAMS, "modality": ["x"] * 4}
    with pytest.raises(MixERValueError, match="Unknown modality 'x'"):
        extract_features(wrapped(), [batch])


def test_a_loader_that_repeats_images_gives_features_that_nobody_takes(tmp_path):
    batch = (torch.randn(4, 3, 8, 6), IDS, CAMS, PATHS)
    found = extract_features(wrapped(), [batch, batch])
    for use in (lambda: evaluate(found, "full"), lambda: found.save(tmp_path / "x.npz")):
        with pytest.raises(MixERValueError, match="in rows 0 and 4"):
            use()


def test_a_forward_that_takes_more_than_the_adapter_gives():
    model = wrapped(Told())
    training = model.training
    with pytest.raises(MixERTypeError, match=r"argument: 'side'.*modality='its"):
        ask(model=model)
    assert model.training == training
    assert ask(model=wrapped(Told(), modality="side")) == ([0, 1, 0, 1], None)
    assert "other=…" in evaluation_trouble(Told(), GenericAdapter("layer4", modality="other"))
    assert evaluation_trouble(Net(), GenericAdapter("layer4")) is None
