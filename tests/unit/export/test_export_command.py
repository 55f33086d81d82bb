"""``mixer-plugin export``: the model arguments of ``extract``, one file out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from mixer_plugin import wrap_with_mixer
from mixer_plugin.cli import main

MODULE = """
from mixer_plugin.baselines import create_baseline
from mixer_plugin import wrap_with_mixer


def build():
    return create_baseline("saai-base", num_classes=4, trunk="small", image_size=(32, 16))


def wrapped():
    return wrap_with_mixer(build(), "f", seed=1)
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "deployed_networks", raising=False)
    Path("deployed_networks.py").write_text(MODULE)


@pytest.mark.slow
def test_a_function_and_a_checkpoint(capsys: pytest.CaptureFixture) -> None:
    import deployed_networks

    model = wrap_with_mixer(deployed_networks.build(), "e2e", seed=2).eval()
    torch.save({"net": model.state_dict()}, "best.pth")
    words = ["deployed_networks:build", "--weights", "best.pth", "--wrap", "e2e"]
    assert main(["export", *words, "--size", "32x16", "--out", "model.pt2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("model.pt2: erased 128, related 128, fused 256 columns; within ")
    assert main(["export", *words, "--size", "32x16", "--out", "again.pt2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["columns"] == {"erased": 128, "related": 128, "fused": 256}
    assert found["difference"] < 1e-4
    module = torch.export.load("model.pt2").module()
    images, modality = torch.randn(3, 3, 32, 16), torch.tensor([0, 1, 1])
    expected = model(images, cam_ids=torch.tensor([1, 3, 3]))
    assert torch.allclose(module(images, modality)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.pt2"], "Give --model once: it is missing."),
        (["deployed_networks:build", "--out", "x.pt2"], "without MixER"),
        (["deployed_networks:wrapped", "--out", "x.txt"], "expected .onnx or .pt2"),
        (["deployed_networks:wrapped", "--size", "32", "--out", "x.pt2"], "expected HEIGHTxWIDTH"),
        (["deployed_networks:build", "--wrap", "f", "--out", "x.pt2"], "give --weights"),
    ],
)
def test_what_does_not_fit(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("x.pt2").exists()
