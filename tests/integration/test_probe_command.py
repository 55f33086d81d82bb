"""``mixer-plugin probe`` on stored features, a network of table3 and a torchvision model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mixer_plugin.benchmarks.experiment.trained_network import Built, save_trained
from mixer_plugin.cli import main
from mixer_plugin.commands.evaluate.probe import work as command
from mixer_plugin.data.synthetic import layout_config, write_layout
from mixer_plugin.features import FeatureSet
from mixer_plugin.probing import report

SECTIONS = ("## The paper's constraints", "## Modality", "## Identity", "## Evaluation")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    config = layout_config(
        *("sysu",),
        train_ids=4,
        val_ids=1,
        test_ids=9,
        visible_per_camera=1,
        infrared_per_camera=2,
        test_visible_per_camera=1,
        test_infrared_per_camera=2,
        height=32,
        width=16,
    )
    return write_layout(tmp_path_factory.mktemp("probed") / "set", config, "sysu").root


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Path:
    """Networks as table3 leaves them, without its training."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    for name, mode in (("baseline", None), ("e2e", "e2e")):
        built = Built(
            baseline="saai-base",
            options={"trunk": "small"},
            classes=4,
            image_size=(32, 16),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            mode=mode,
            mixer=None if mode is None else {},
        )
        save_trained(folder / f"{name}.pt", built.build(), built)
    return folder


@pytest.fixture
def run(capsys):
    def call(*words):
        given = [str(word) for word in words]
        given += [] if "--folds" in given else ["--folds", "3"]
        status = main(["probe", *given])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture(scope="module")
def stored(networks, root, tmp_path_factory) -> Path:
    """Features with related ones, extracted by the package's own command."""
    path = tmp_path_factory.mktemp("stored") / "features.npz"
    assert main(["extract", str(networks / "e2e.pt"), str(root), "--out", str(path)]) == 0
    return path


def test_stored_features(run, stored, root, tmp_path):
    status, out, _ = run(stored, "--out", tmp_path)
    assert status == 0
    assert all(word in out for word in (*SECTIONS, "## Independence"))
    assert "Factors" not in out
    assert "E+R" in out
    written = json.loads((tmp_path / "probe.json").read_text())
    assert (tmp_path / "probe.md").read_text() == out
    assert list(written["modality"]) == ["erased", "related"]
    assert len(written["constraints"]) == 5
    card = json.loads((tmp_path / "run_card.json").read_text())
    assert card["probed"] == {"features": str(stored)}
    assert card["config"]["folds"] == 3
    assert "Factors of the generator" in run(stored, "--root", root, "--folds", 4)[1]


def test_features_without_related_ones(run, stored, tmp_path):
    features = FeatureSet.load(stored)
    erased = FeatureSet(
        features.erased, None, features.ids, features.cams, features.modality, features.paths
    )
    erased.save(tmp_path / "erased.npz")
    status, out, _ = run(tmp_path / "erased.npz", "--protocol", "sysu/all/single@ye")
    assert status == 0
    assert "Independence" not in out
    assert "MI(Z_e; M) = 0" in out
    assert "Z_r" not in out
    assert "protocol sysu/all/single@ye" in out


def test_a_network_of_table3(run, networks, stored, root, tmp_path):
    status, out, _ = run(networks / "e2e.pt", "--root", root, "--out", tmp_path)
    assert status == 0
    for name in ("erased before the neck", "related before the neck"):
        assert f"| {name} | linear |" in out
    assert "Factors of the generator" in out
    mine, theirs = FeatureSet.load(tmp_path / "features.npz"), FeatureSet.load(stored)
    assert mine.paths == theirs.paths
    torch.testing.assert_close(mine.erased, theirs.erased, atol=1e-5, rtol=0)
    torch.testing.assert_close(mine.related, theirs.related, atol=1e-5, rtol=0)
    bare = run(networks / "baseline.pt", "--root", root)[1]
    assert "| erased before the neck | linear |" in bare
    assert "related" not in bare


def test_heads_are_trained_on_cached_maps(run, networks, root, tmp_path):
    words = (networks / "baseline.pt", "--root", root, "--out", tmp_path, "--train-heads")
    words += ("--iterations", 3, "--copies", 2)
    status, out, err = run(*words)
    assert status == 0
    assert "| related | linear |" in out
    assert "maps" in err
    (saved,) = tmp_path.glob("heads-*.pt")
    assert torch.load(saved, weights_only=True)["step"] == 3
    assert len(list((tmp_path / "maps").iterdir())) == 1
    card = json.loads((tmp_path / "run_card.json").read_text())
    assert card["probed"]["heads"]["recipe"]["iterations"] == 3
    status, again, err = run(*words)
    assert again == out
    assert "maps" not in err
    assert "features: kept" in err
    # Heads of a wrapped network are replaced by new ones; other trainings lie beside the first.
    assert run(networks / "e2e.pt", *words[1:6], "--iterations", 1)[0] == 0
    assert len(list(tmp_path.glob("heads-*.pt"))) == 2
    deep = ("--mixer", "related_stages=3", "related_heads=shared", "related_labels=identity")
    assert run(*words, *deep)[0] == 0
    card = json.loads((tmp_path / "run_card.json").read_text())
    assert card["probed"]["heads"]["mixer"]["related_stages"] == 3
    named = [torch.load(path, weights_only=True)["mixer"] for path in tmp_path.glob("heads-*.pt")]
    assert len(named) == 3
    assert sum(any(key.startswith("heads.shared.stage.2.") for key in held) for held in named) == 1


def test_an_interrupted_command_continues(run, stored, root, tmp_path, monkeypatch):
    whole = run(stored, "--root", root)[1]
    asked = []

    def stop(*arguments):
        asked.append("identity")
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    real = report.probe_identity
    monkeypatch.setattr(report, "probe_identity", stop)
    status, out, err = run(stored, "--root", root, "--out", tmp_path)
    assert (status, out) == (130, "")
    assert "continues" in err
    assert not (tmp_path / "probe.json").exists()
    monkeypatch.setattr(report, "probe_identity", real)
    status, out, err = run(stored, "--root", root, "--out", tmp_path)
    assert (status, out) == (0, whole)
    kept = [line for line in err.splitlines() if line.endswith(": kept")]
    assert kept == [
        f"{part}: kept"
        for part in (
            *("modality of erased", "identity of erased", "factors of erased"),
            "modality of related",
        )
    ]
    other = run(stored, "--root", root, "--out", tmp_path, "--seed", 1)[2]
    assert [line for line in other.splitlines() if line.endswith("kept")] == ["evaluation: kept"]


def test_a_torchvision_model(run, root, tmp_path):
    pytest.importorskip("torchvision", reason="torchvision is absent")
    words = ("--model", "torchvision:resnet18", "--embed", "avgpool", "--size", "32x16")
    status, out, _ = run(*words, "--root", root)
    assert status == 0
    assert "erased (512)" in out
    assert "before the neck" not in out  # it has none
    status, out, _ = run(*words, "--root", root, "--train-heads", "--iterations", 1, "--seed", 2)
    assert status == 0
    assert "related before the neck (512)" in out


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, 2)
        self.last = torch.nn.Conv2d(8, 8, 3, 2)
        self.mean = torch.nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.mean(self.last(self.stem(x).relu()))


def test_a_model_of_ones_own_with_its_weights(run, root, tmp_path):
    model = Tiny()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pt")
    words = ("--model", f"{__name__}:Tiny", "--stage", "last", "--embed", "mean")
    words += ("--size", "32x16", "--root", root, "--out", tmp_path / "out")
    assert run(tmp_path / "weights.pt", *words)[0] == 0
    found = FeatureSet.load(tmp_path / "out" / "features.npz")
    assert found.erased.shape[1] == 8
    card = json.loads((tmp_path / "out" / "run_card.json").read_text())
    assert card["probed"]["weights"] == str(tmp_path / "weights.pt")
    # Other weights are other features: nothing that was kept is used.
    assert "kept" not in run(*words)[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Give features"),
        (("missing.npz",), "does not exist"),
        (("{stored}", "--size", "64x32"), "say more of --model"),
        (("{stored}", "--train-heads"), "no maps"),
        (("{stored}", "--batch", "0"), "would change nothing"),
        (("{net}",), "give --root"),
        (("{net}", "--root", "{root}", "--copies", "2"), "say more of --train-heads"),
        (("{net}", "--root", "{root}", "--mixer", "related_stages=2"), "say more of --train-heads"),
        (("{net}", "--root", "{root}", "--train-heads", "--mixer", "stages=2"), "related_stages"),
        (("--model", "torch.nn", "--root", "{root}"), "names no function"),
        (("--model", "torch.nn:Nothing", "--root", "{root}"), "no function or class 'Nothing'"),
        (("--model", "no_such_module:f", "--root", "{root}"), "PYTHONPATH"),
        (("--model", "builtins:dict", "--root", "{root}"), "made a dict"),
        (("--model", "torch.nn:ReLU", "--root", "{root}", "--size", "big"), "HEIGHTxWIDTH"),
    ],
)
def test_what_does_not_go_together_is_refused(run, stored, networks, root, words, message):
    names = {"stored": stored, "net": networks / "e2e.pt", "root": root}
    status, _, said = run(*(word.format(**names) for word in words))
    assert status == 2
    assert message in said


def test_a_device_that_is_not_there_is_refused(run, networks, root, monkeypatch):
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    status, _, said = run(networks / "e2e.pt", "--root", root, "--device", "cuda")
    assert status == 2
    assert "no GPU" in said
