"""Options that make no sense: one line and status 2, before any work and never ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixer_plugin import FeatureSet
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.cli import main
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.options import fit


@pytest.fixture
def features(tmp_path: Path) -> str:
    rows = torch.arange(24)
    erased = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "f.npz"
    FeatureSet(erased, None, rows % 6, rows % 2 + 1, (rows + rows // 6) % 2).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("table3", "Give --config: a YAML file, or the name"),
        ("table3", "six, and the paper's: paper/llcm-ddag, "),
        ("report --out DIR", "Give --config"),
        ("table3 --config demo --out=", "out is empty"),
        ("table3 --config demo --out DIR --weights=", "weights is empty"),
        ("table3 --config demo --out DIR/file", "Cannot write results to DIR/file"),
        ("table3 --config heads --out DIR/x", "mixer_plugin.benchmarks.study --config heads"),
        ("report --config demo --out DIR", "holds no run of table3"),
        ("synth DIR/s --seed -1", "seed is -1"),
        ("synth DIR/s --seed 100000000000000000000", "of at most 64 bits"),
        ("synth DIR/s --light nan", "light is nan"),
        ("synth DIR/s --height 100000", "height is 100000"),
        ("synth DIR/s --workers 0", "workers must be at least 1"),
        ("synth DIR/file --train-ids 1", "DIR/file is a file"),
        ("synth=", "There is no command"),
        ("extract n.pt DIR --out DIR/x.npz --batch 0", "batch is 0"),
        ("extract n.pt DIR --out DIR/x.npz --workers -1", "workers is -1"),
        ("extract n.pt DIR --out DIR/x.npz --workers 100000", "workers is 100000"),
        ("extract n.pt DIR --out DIR/x.npz --device gpu", "--device gpu cannot be used"),
        ("extract n.pt DIR --out DIR/x.npz --device meta", "--device meta cannot be used"),
        ("extract n.pt DIR --out DIR/x.csv", "expected the name of a .npz file"),
        ("extract n.pt DIR --out=", "out is empty"),
        ("probe FEATURES --split train", "--split would change nothing"),
        ("probe FEATURES --layout sysu --trial 3", "--layout and --trial would change nothing"),
        ("probe FEATURES --batch 3", "--batch would change nothing"),
        ("probe FEATURES --workers 2", "--workers would change nothing"),
        ("probe FEATURES --device cuda", "--device would change nothing"),
        ("probe FEATURES --root DIR", "--root, a folder without factors"),
        ("probe FEATURES --root DIR/none", "--root, a folder without factors"),
        ("probe FEATURES --seed -1", "seed is -1"),
        ("evaluate FEATURES --device meta", "--device meta cannot be used"),
        ("arrays DIR --out=", "out is empty"),
    ],
)
def test_absurd_options(
    words: str, said: str, features: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    given = words.replace("DIR", str(tmp_path)).replace("FEATURES", features).split()
    try:
        status = main(given)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    printed = capsys.readouterr()
    assert said.replace("DIR", str(tmp_path)) in printed.err.splitlines()[-1]
    assert printed.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"file", "f.npz"}


def test_damaged_notes_of_a_run_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["report", "--config", "demo", "--out", str(tmp_path)]
    (tmp_path / "config.fingerprint").write_bytes(b"\xff")
    assert main(words) == 2
    assert "holds results of another configuration. Choose" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{")
    assert main(words) == 2
    assert f"{tmp_path}/config.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--threads", "0"], ["--rounds", "0"], ["--sizes", "3", "-1"]])
def test_what_cannot_be_measured_is_refused(
    words: list[str], capsys: pytest.CaptureFixture
) -> None:
    parser = harness.speed_parser("Measures.", 3)
    parser.add_argument("--sizes", type=int, nargs="+")
    with pytest.raises(SystemExit) as stop:
        harness.parse(parser, words)
    assert stop.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_a_single_value_has_the_same_door() -> None:
    assert fit("1e-3", float, "rate") == 0.001
    with pytest.raises(MixERValueError, match=r"rate is 'x'; expected a number\."):
        fit("x", float, "rate")
