"""Public checkpoints: read without running anything, every tensor accounted for."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.errors import MixERValueError


def ddag() -> nn.Module:
    torch.manual_seed(0)
    return create_baseline("ddag", 4, trunk="small", low_dim=8)


def public_state() -> dict[str, torch.Tensor]:
    """What the public DDAG would hold around these weights: live ones and dead ones."""
    state = {k: v + 1 if v.is_floating_point() else v for k, v in ddag().state_dict().items()}
    dead = ("visible_module.visible.layer1.0.conv1.weight", "base_resnet.base.bn1.running_var")
    dead += ("classifier2.weight", "wpa.W.1.num_batches_tracked")
    return state | {name: torch.zeros(3) for name in dead}


def test_the_script_familys_file_with_its_numpy_numbers(tmp_path: Path) -> None:
    state = public_state()
    accuracies = np.linspace(0, 1, 5)
    content = {"net": {f"module.{k}": v for k, v in state.items()}, "epoch": np.int64(3)}
    content |= {"cmc": accuracies, "mAP": accuracies.mean(), "mINP": np.float32(0.5)}
    torch.save(content, tmp_path / "best.t")
    model = ddag()
    report = load_official(model, tmp_path / "best.t")
    assert set(report.loaded) == set(model.state_dict())
    assert set(report.dead) == set(state) - set(report.loaded)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    text = str(report)
    assert "none missing" in text
    assert "1 left out (classifier2.weight): classifiers that no forward uses" in text
    assert "only their first layers run" in text


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda s: s.pop("classifier.weight"), r"1 missing: classifier\.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 unknown: extra"),
        (
            lambda s: s.update({"classifier.weight": torch.zeros(9, 128)}),
            r"1 of another shape: classifier\.weight.*num_classes",
        ),
    ],
)
def test_nothing_is_loaded_that_does_not_fit(tmp_path: Path, change, hint: str) -> None:  # type: ignore[no-untyped-def]
    state = public_state()
    change(state)
    torch.save(state, tmp_path / "model.pth")
    model = ddag()
    with pytest.raises(MixERValueError, match=hint):
        load_official(model, tmp_path / "model.pth")
    assert all(
        torch.equal(v, w)
        for v, w in zip(model.state_dict().values(), ddag().state_dict().values(), strict=True)
    )


class Harm:
    """Calls a function when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return self.made


def nested(harm: Harm) -> Harm:
    """The harm in a pickle of its own, which a function of PyTorch would load unchecked."""
    inner = io.BytesIO()
    torch.save({"x": harm}, inner)
    return Harm(torch.storage._load_from_bytes, inner.getvalue())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("wrapped", [lambda harm: harm, nested], ids=["plain", "nested"])
@pytest.mark.parametrize("place", ["beside the weights", "as the weights"])
def test_code_in_a_checkpoint_is_refused_not_run(tmp_path, place, wrapped, zipped) -> None:  # type: ignore[no-untyped-def]
    harm = wrapped(Harm(os.mkdir, str(tmp_path / "harm")))
    content = {"net": harm} if place == "as the weights" else {"net": public_state(), "args": harm}
    path = tmp_path / "best.t"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        MixERValueError, match=r"holds (posix\.mkdir|torch\.storage\._load).*Only tensors"
    ):
        load_official(ddag(), path)
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(MixERValueError, match=r"best\.t cannot be read as a checkpoint"):
        load_official(ddag(), path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("core", ["core", "_core"], ids=["NumPy 1", "NumPy 2"])
def test_numbers_of_either_numpy_are_read(tmp_path: Path, core: str) -> None:
    path = tmp_path / "best.t"
    content = {"net": public_state(), "mAP": np.float64(0.5), "cmc": np.ones(5, np.float32)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    # The old format writes a function's name as a line: in that alone the two differ.
    written = re.sub(rb"numpy\._?core\.", f"numpy.{core}.".encode(), path.read_bytes())
    assert f"numpy.{core}.multiarray\n".encode() in written
    path.write_bytes(written)
    assert load_official(ddag(), path).loaded


def test_the_advice_on_code_in_a_checkpoint_works(tmp_path: Path) -> None:
    path = tmp_path / "best.t"
    torch.save({"net": public_state(), "args": argparse.Namespace(lr=0.1)}, path)
    with pytest.raises(MixERValueError, match="save the state dict alone"):
        load_official(ddag(), path)
    torch.save(torch.load(path, weights_only=False)["net"], path)  # this file is trusted
    assert load_official(ddag(), path).loaded


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(MixERValueError, match="holds no state dict"):
        load_official(ddag(), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_text("an HTML page instead of the file")
    with pytest.raises(MixERValueError, match="cannot be read as a checkpoint"):
        load_official(ddag(), tmp_path / "b.pth")
    with pytest.raises(MixERValueError, match="no baseline of this package"):
        load_official(nn.Linear(1, 1), tmp_path / "a.pth")
