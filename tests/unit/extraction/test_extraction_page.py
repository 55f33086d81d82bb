"""docs/extraction.md runs as it is written."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet
from mixer_plugin.cli import main, parser
from tests.unit.extraction.own_folders import crops, paint

pytest.importorskip("torchvision", reason="needs torchvision (the extra 'bench')")

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = DOCS / "extraction.md"
NETWORK = """
from mixer_plugin.baselines import create_baseline


def build():
    return create_baseline("saai-base", num_classes=4, trunk="small", image_size=(64, 32))
"""


@pytest.mark.slow
def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from torchvision.models import resnet18

    from mixer_plugin import wrap_with_mixer

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_network", raising=False)
    Path("my_network.py").write_text(NETWORK)
    import my_network

    model = wrap_with_mixer(my_network.build(), "e2e", seed=0)
    torch.save({"model": model.state_dict(), "epoch": 1}, "best.pth")
    torch.save(resnet18().state_dict(), "resnet18.pth")
    crops(tmp_path / "crops", persons=3, each=2)
    for place, grey in (("gate", False), ("hall/night", True)):
        paint(tmp_path / "places" / place / "0.png", 1, grey=grey)
    text = PAGE.read_text(encoding="utf-8")
    tables = re.findall(r"```csv\n(.*?)```", text, re.DOTALL)
    for name, table in zip(("images.csv", "cameras.csv"), tables, strict=True):
        Path(name).write_text(table)
    commands = re.findall(r"^mixer-plugin (.*)$", text, re.MULTILINE)
    assert len(commands) == 8
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"\nmixer-plugin {command}\n" in readme for command in commands[:2])
    for command in commands:
        assert main(shlex.split(command)) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "3 images, erased" in out
    assert "(1 images of unknown persons)" in out
    assert "taken off" not in out
    assert FeatureSet.load("bare.npz").erased.shape == (12, 512)
    assert FeatureSet.load("places.npz").modality.tolist() == [0, 1]
    with np.load("table.npz") as held:
        assert held["time"][1] - held["time"][0] == 4
        assert np.isnan(held["time"][2])
    assert FeatureSet.load("mine.npz").related is not None
    # What a test script does with the base part.
    my_network.build().load_state_dict(torch.load("best_base.pth", weights_only=True)["model"])
    values: dict = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), values)
    assert Path("steps.npz").read_bytes() == Path("mine.npz").read_bytes()
    assert "| mix" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ddag", "deen", "sgeil", "mpanet", "saai", "idkl"])
def test_the_integration_pages_say_how_a_test_script_gets_its_part(name: str) -> None:
    text = (DOCS / "integrations" / f"{name}.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`mixer-plugin (convert [^`]*)`", text)
    options = parser("convert").parse_args(shlex.split(command))
    assert options.base
    assert options.mixer is None
    assert "(../extraction.md#a-repositorys-own-test-script)" in text
