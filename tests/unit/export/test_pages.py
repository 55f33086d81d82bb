"""docs/deployment.md and docs/training-evaluation.md run as they are written."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from mixer_plugin import extract_features, wrap_with_mixer
from mixer_plugin import scores as literal_scores
from mixer_plugin.cli import main
from tests.contract.attached import build, train, wrap
from tests.contract.toys import TOYS
from tests.unit.export.test_export_command import MODULE
from tests.unit.training.test_evaluation_in_training import gallery

DOCS = Path(__file__).resolve().parents[3] / "docs"


def run_blocks(page: str, values: dict, skip: str = "\0") -> dict:
    text = (DOCS / page).read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if skip not in code:
            exec(compile(code, page, "exec"), values)
    return values


@pytest.mark.slow
def test_the_deployment_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "onnxscript", "safetensors"):
        pytest.importorskip(package, reason="needs the extra 'export'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_network", raising=False)
    Path("my_network.py").write_text(MODULE)
    import my_network

    model = wrap_with_mixer(my_network.build(), "e2e", seed=0).eval()
    torch.save({"model": model.state_dict()}, "best.pth")
    text = (DOCS / "deployment.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^mixer-plugin (.*)$", text, re.MULTILINE)
    assert main(shlex.split(command)) == 0
    assert Path("model.onnx").stat().st_size > 1000
    images, modality = torch.randn(4, 3, 32, 16), torch.tensor([0, 1, 1, 0])
    given = {"model": model, "images": images, "modality": modality, "build": my_network.build}
    values = run_blocks("deployment.md", given)
    features = extract_features(model, [(images, torch.arange(4), 1 + 2 * modality)])
    expected = literal_scores(features, features, "mixer")
    assert torch.allclose(values["scores"], expected, atol=1e-5)
    assert torch.equal(values["network"].mixer.identity.weight, model.mixer.identity.weight)


def test_the_training_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    toy, said = TOYS["saai"], []
    model = wrap(toy, build(toy))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    given = {
        "model": model,
        "loader": gallery(),
        "print_figures": lambda figures, step: said.append((step, sorted(figures))),
        "train_one_epoch": lambda model: train(toy, model, optimizer, steps=1),
    }
    try:
        import lightning  # noqa: F401

        skip = "\0"
    except ImportError:
        skip = "lightning"
    values = run_blocks("training-evaluation.md", given, skip)
    assert [step for step, _ in said] == [1, 3]
    assert {"mix/mAP", "mix/R1", "mix/mAP/erased"} <= set(said[0][1])
    assert values["best_so_far"]("best.pth") == values["best"]
