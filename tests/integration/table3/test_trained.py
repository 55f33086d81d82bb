"""A finished cell's network: built again from its file, and its features extracted anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mixer_plugin.benchmarks.experiment.cells import plan_jobs
from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.run_cell import run_job
from mixer_plugin.benchmarks.experiment.trained_network import load_trained
from mixer_plugin.cli import main
from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from tests.integration.table3.test_table3 import CONFIG
from tests.processes import torchrun

CELLS = ("baseline", "f", "e2e")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    values = {
        **CONFIG,
        "seeds": [0],
        "controls": {},
        "recipe": {**CONFIG["recipe"], "iterations": 3},
        "heads": {"when": "after", "recipe": {"iterations": 2}},
    }
    config = config_from_dict(values)
    for job in plan_jobs(config):
        run_job(job, out)
    return out


def cell(out: Path, name: str) -> Path:
    return out / "cells" / "saai-base-cues-seed0" / name


@pytest.mark.parametrize("name", CELLS)
def test_features_extracted_anew_are_those_of_the_run(
    trained: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoint, root = cell(trained, f"{name}.pt"), trained / "data" / "cues-seed0"
    assert main(["extract", str(checkpoint), str(root), "--out", str(tmp_path / "x.npz")]) == 0
    assert "x.npz" in capsys.readouterr().out
    again = FeatureSet.load(tmp_path / "x.npz")
    kept = FeatureSet.load(cell(trained, f"{name}.features.npz"))
    assert again.paths == kept.paths
    # The run's network has its weights channels last, this one has not: sums in another order.
    torch.testing.assert_close(again.erased, kept.erased, atol=1e-5, rtol=0)
    assert (again.related is None) == (name == "baseline")
    if again.related is not None:
        torch.testing.assert_close(again.related, kept.related, atol=1e-5, rtol=0)


def test_the_head_of_a_frozen_base_holds_the_baselines_weights(trained: Path) -> None:
    base, built = load_trained(cell(trained, "baseline.pt"))
    wrapped, other = load_trained(cell(trained, "f.pt"))
    assert (built.mode, other.mode) == (None, "f")
    assert not base.training
    for key, value in base.state_dict().items():
        assert torch.equal(value, wrapped.state_dict()[key]), key


def test_two_processes_write_the_file_of_one(trained: Path, tmp_path: Path) -> None:
    checkpoint, root = cell(trained, "e2e.pt"), trained / "data" / "cues-seed0"
    options = ["--split", "train", "--batch", "8", "--workers", "1"]
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    assert main(["extract", str(checkpoint), str(root), "--out", str(one), *options]) == 0
    command = ("-m", "mixer_plugin.cli", "extract", checkpoint, root, "--out", two, *options)
    run = torchrun(*command)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("two.npz") == 1
    alone, shared = FeatureSet.load(one), FeatureSet.load(two)
    assert shared.paths == alone.paths
    assert torch.equal(shared.erased, alone.erased)
    assert torch.equal(shared.related, alone.related)


def test_other_files_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = tmp_path / "text.pt"
    text.write_text("no network")
    for path, words in ((text, "cannot be read"), (tmp_path / "state.pt", "not a trained network")):
        torch.save({"weight": torch.zeros(1)}, tmp_path / "state.pt")
        with pytest.raises(MixERValueError, match=words):
            load_trained(path)
    root = trained / "data" / "cues-seed0"
    assert main(["extract", str(text), str(root), "--out", str(tmp_path / "y.npz")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    good = cell(trained, "e2e.pt")
    assert main(["extract", str(good), str(root), "--out", "y.npz", "--batch", "0"]) == 2
    assert not np.any([path.suffix == ".npz" for path in tmp_path.iterdir()])
