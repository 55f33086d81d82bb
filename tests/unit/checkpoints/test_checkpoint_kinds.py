"""Values of a checkpoint that are no plain tensors: loaded, or refused before any is written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mixer_plugin.checkpoints import load_base_state_dict
from mixer_plugin.errors import MixERError

KEY, COUNT = "0.weight", "1.num_batches_tracked"


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


NEW = {key: value + 1 for key, value in network().state_dict().items()}
W = NEW[KEY]


def read_only():
    return np.frombuffer(W.numpy().tobytes(), dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (KEY, W.numpy()),
        (KEY, read_only()),
        (KEY, W.numpy().astype(">f4")),
        (KEY, W.numpy().astype(np.float64)),
        (KEY, W.double()),
        (KEY, nn.Parameter(W)),
        (COUNT, np.int64(1)),
        (COUNT, np.array(1, dtype=np.uint8)),
    ],
)
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state}])
def test_loaded(key, value, wrap):
    model = network()
    load_base_state_dict(model, wrap({**NEW, key: value}))
    assert all(torch.equal(now, NEW[name]) for name, now in model.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (KEY, W.tolist()),
        (KEY, None),
        (KEY, "text"),
        (KEY, W.numpy().astype(object)),
        (KEY, W.numpy().astype(np.longdouble)),
        (KEY, W.to_sparse()),
        (KEY, W.to("meta")),
        (KEY, W.to(torch.complex64)),
        (KEY, W.int()),
        (KEY, W > 0),
        (KEY, W.double() * 1e300),
        (COUNT, 5),
        (COUNT, torch.tensor(2.5)),
        (7, W),
        ("module." + KEY, W),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_refused_with_nothing_written(key, value, strict):
    model = network()
    before = {name: own.clone() for name, own in model.state_dict().items()}
    with pytest.raises(MixERError):
        load_base_state_dict(model, {"net": {**NEW, key: value}}, strict=strict)
    assert all(torch.equal(own, before[name]) for name, own in model.state_dict().items())


def test_an_array_of_another_shape():
    given = {"net": {**NEW, KEY: np.ones((3, 3), dtype=np.float32)}}
    with pytest.raises(MixERError, match=f"1 mismatched: {KEY}"):
        load_base_state_dict(network(), given)
    assert load_base_state_dict(network(), given, strict=False).mismatched == (KEY,)


def test_what_the_model_does_not_need_may_be_anything():
    report = load_base_state_dict(network(), {"net": {**NEW, "epoch": 3}}, strict=False)
    assert report.unexpected == ("epoch",)
    assert len(report.loaded) == len(NEW)
