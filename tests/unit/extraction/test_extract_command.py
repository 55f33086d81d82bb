"""``mixer-plugin extract``: any model, a data set or images of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mixer_plugin import FeatureSet, base_state_dict, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.cli import main
from mixer_plugin.data.synthetic import layout_config, write_layout
from mixer_plugin.errors import MixERWarning
from tests.unit.extraction.own_folders import crops, paint

SMALL = ["--size", "32x16", "--batch", "8"]
MODULE = """
from torch import nn
from mixer_plugin.baselines import create_baseline
from mixer_plugin import wrap_with_mixer


def saai():
    return create_baseline("saai-base", num_classes=4, trunk="small", image_size=(32, 16))


def wrapped():
    return wrap_with_mixer(saai(), "f", seed=1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.avgpool(self.layer4(x)).flatten(1))


def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: crops, a module of networks, and their checkpoints."""
    monkeypatch.chdir(tmp_path)
    crops(tmp_path / "crops")
    Path("own_networks.py").write_text(MODULE)
    import own_networks  # found in the working folder

    torch.manual_seed(4)
    model = wrap_with_mixer(own_networks.saai(), "e2e", seed=2)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"net": state, "epoch": 3}, "best.pth")
    torch.save(base_state_dict(model), "base.pth")
    net = wrap_with_mixer(own_networks.Net(), "f", adapter=GenericAdapter(), seed=2)
    torch.save(net.state_dict(), "net.pth")
    return tmp_path


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test imports the module of its own folder."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)


def extract(*words: object) -> int:
    return main(["extract", *map(str, words), "--out", "x.npz"])


def test_build_wrap_load_extract_evaluate(folder: Path, capsys: pytest.CaptureFixture) -> None:
    images = ["--images", "crops", *SMALL]
    model = ["--model", "own_networks:saai", "--weights", "best.pth", "--wrap", "e2e"]
    assert extract(*model, *images) == 0
    said = capsys.readouterr()
    assert said.out.startswith("x.npz: 12 images, erased ")
    assert said.out.endswith("3 identities, 2 cameras, 6 infrared\n")
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert [(line["images"], line["of"]) for line in lines] == [(12, 12)]
    found = FeatureSet.load("x.npz")
    assert found.related is not None
    assert main(["evaluate", "x.npz", "--settings", "mix"]) == 0
    assert "| mix" in capsys.readouterr().out
    # For programs, and with nothing beside it.
    Path("x.npz").unlink()
    assert extract(*model, *images, "--json", "--quiet") == 0
    said = capsys.readouterr()
    assert said.err == ""
    known = {"file": "x.npz", "images": 12, "identities": 3, "cameras": 2, "infrared": 6}
    assert known.items() <= json.loads(said.out).items()
    # The function may wrap the network itself; base alone, and of base and heads.
    assert extract("--model", "own_networks:wrapped", "--weights", "best.pth", *images) == 0
    assert torch.equal(FeatureSet.load("x.npz").related, found.related)
    for weights in ("best.pth", "base.pth"):
        model = ["--model", "own_networks:saai", "--weights", weights, "--bare"]
        assert extract(*model, *images) == 0
        bare = FeatureSet.load("x.npz")
        assert bare.related is None
        assert torch.equal(bare.erased, found.erased)


def test_paths_of_any_network(folder: Path) -> None:
    model = ["--model", "own_networks:Net", "--weights", "net.pth", "--images", "crops", *SMALL]
    paths = ["--stage", "layer4", "--embed", "avgpool", "--classes", "4"]
    assert extract(*model, "--wrap", "f", *paths) == 0
    found = FeatureSet.load("x.npz")
    assert extract(*model, "--bare", "--embed", "avgpool") == 0
    assert torch.equal(FeatureSet.load("x.npz").erased, found.erased)
    assert extract(*model, "--bare", "--embed", "output", "--precision", "bf16") == 0
    assert FeatureSet.load("x.npz").erased.shape == (12, 4)


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), pytest.param("resnet50", 2048, marks=pytest.mark.slow)]
)
def test_a_torchvision_network_in_two_commands(
    folder: Path, capsys: pytest.CaptureFixture, name: str, width: int
) -> None:
    torchvision = pytest.importorskip("torchvision")
    words = ["--model", f"torchvision:{name}", "--bare", "--embed", "avgpool", *SMALL]
    with pytest.warns(MixERWarning, match="random weights"):
        assert extract(*words, "--images", "crops") == 0
    torch.manual_seed(0)
    torch.save({"model": getattr(torchvision.models, name)().state_dict()}, "resnet.pth")
    assert extract(*words, "--images", "crops", "--weights", "resnet.pth") == 0
    assert FeatureSet.load("x.npz").erased.shape == (12, width)
    capsys.readouterr()
    assert main(["evaluate", "x.npz"]) == 0
    out = capsys.readouterr().out
    assert "| mix-id" in out
    assert "erased" in out


def test_a_table_with_persons_nobody_knows(folder: Path, capsys: pytest.CaptureFixture) -> None:
    lines = ["path,id,camera,modality,time"]
    for number in range(8):
        paint(folder / "new" / f"{number}.png", number, grey=bool(number % 2))
        who = "" if number > 5 else number // 2
        lines.append(f"{number}.png,{who},{1 + number % 2},{number % 2},{100 + number}")
    Path("new/images.csv").write_text("\n".join(lines))
    bare = ["--model", "own_networks:saai", "--weights", "base.pth", "--bare", *SMALL]
    assert extract(*bare, "--images", "new/images.csv") == 0
    assert "3 identities (2 images of unknown persons)" in capsys.readouterr().out
    with np.load("x.npz") as held:
        assert held["time"].tolist() == list(range(100, 108))
    assert FeatureSet.load("x.npz").ids.tolist() == [0, 0, 1, 1, 2, 2, -1, -1]
    assert main(["evaluate", "x.npz", "--settings", "cross", "--query", "both"]) == 0
    with pytest.warns(MixERWarning, match="told by their pixels: 4 coloured"):
        assert extract(*bare, "--images", "new", "--modality", "auto") == 0
    assert FeatureSet.load("x.npz").modality.tolist() == [0, 1] * 4


def test_a_data_set_in_its_layout(folder: Path, capsys: pytest.CaptureFixture) -> None:
    config = layout_config("regdb", train_ids=2, val_ids=1, test_ids=3, height=32, width=16)
    write_layout("ROOT", config, "regdb")
    bare = ["--model", "own_networks:saai", "--weights", "base.pth", "--bare", *SMALL]
    assert extract(*bare, "--images", "ROOT", "--trial", "2") == 0
    assert "2 cameras" in capsys.readouterr().out
    assert extract(*bare, "--images", "ROOT", "--modality", "auto") == 2
    assert "--modality would change nothing" in capsys.readouterr().err
    Path("part/cam1").mkdir(parents=True)
    paint(Path("part/cam1/a.png"), 1)
    assert extract(*bare, "--images", "part") == 2
    error = capsys.readouterr().err
    assert "nothing says the modality of 1 of 1 images" in error
    assert "parts of SYSU-MM01: if it is that, give --layout sysu" in error
    assert extract(*bare, "--images", "part", "--modality", "visible") == 0


def test_a_module_in_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the installed command finds it, whose path holds no working folder."""
    from mixer_plugin.probing.models import build_named

    others = [path for path in sys.path if Path(path or ".").resolve() != folder.resolve()]
    monkeypatch.setattr(sys, "path", list(others))
    Path("only_here.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.ReLU()\n"
    )
    assert type(build_named("only_here:build")).__name__ == "ReLU"
    assert sys.path[:-1] == others  # behind what is installed


SAAI = ["--model", "own_networks:saai"]
HEADS = [*SAAI, "--wrap", "f", "--weights", "best.pth"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "crops"], "Give --model once: it is missing"),
        (["a.pt", "crops", "--model", "b.pt"], "Give --model once: ['a.pt', 'b.pt'] are two"),
        ([*SAAI, "--weights", "base.pth"], "without MixER. Give --wrap f or --wrap e2e"),
        ([*SAAI, "--weights", "best.pth"], "the model is not wrapped"),
        ([*SAAI, "--wrap", "f"], "give --weights, the trained checkpoint"),
        ([*SAAI, "--wrap", "f", "--weights", "base.pth"], "base.pth: The checkpoint has no mixer"),
        ([*SAAI, "--bare", "--wrap", "f"], "--wrap would change nothing"),
        ([*SAAI, "--stage", "layer4"], "--stage would change nothing"),
        ([*SAAI, "--bare", "--embed", "a", "--adapter", "saai"], "Give --embed or --adapter"),
        ([*HEADS, "--adapter", "saai", "--stage", "a"], "Give --adapter, or the paths"),
        (["--model", "own_networks:wrapped", *HEADS[2:]], "wraps its network itself"),
        ([*HEADS, "--mixer", "related_stages=2"], "does not fit"),
        ([*HEADS, "--batch", "0"], "batch is 0"),
        ([*HEADS, "--size", "32"], "expected HEIGHTxWIDTH"),
        ([*HEADS, "--precision", "fp8"], "precision is 'fp8'"),
        ([*HEADS, "--device", "tpu9"], "--device tpu9 cannot be used"),
        ([*HEADS, "--split", "test"], "--split would change nothing: crops is no data set"),
        (["--model", "own_networks:number"], "made a int; expected an nn.Module"),
        (["--model", "own_networks:nobody"], "no function or class 'nobody'"),
        (["--model", "nowhere"], "is no file and names no function"),
        (["--model", "best.pth"], "--model module:function --weights FILE"),
        (["--model", "best.pth", "--weights", "x"], "--weights would change nothing"),
        (["--model", "best.pth", "--size", "2x2"], "--size would change nothing"),
    ],
)
def test_what_does_not_fit_together(
    folder: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    images = [] if "--images" in words or "crops" in words else ["--images", "crops"]
    assert extract(*words, *images) == 2
    assert message in capsys.readouterr().err
    assert not list(folder.glob("x.npz*"))
