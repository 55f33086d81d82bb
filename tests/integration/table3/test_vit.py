"""Table 3 on a vision transformer, three steps a training: cells, and features extracted anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixer_plugin.benchmarks.experiment.cells import plan_jobs
from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.run_cell import run_job
from mixer_plugin.benchmarks.experiment.trained_network import load_trained
from mixer_plugin.cli import main
from mixer_plugin.features import FeatureSet
from tests.miniature import miniature

NAME = "saai-base@vit"
CELLS = ("baseline", "f", "e2e")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vit")
    values = miniature(
        baselines={NAME: {"trunk": "vit-small"}},
        heads={"when": "after", "recipe": {"iterations": 2}},
    )
    values["recipe"]["iterations"] = 3
    for job in plan_jobs(config_from_dict(values)):
        run_job(job, out)
    return out


@pytest.mark.parametrize("name", CELLS)
def test_cells_train_and_extract(trained: Path, name: str, tmp_path: Path) -> None:
    folder, root = trained / "cells" / f"{NAME}-cues-seed0", trained / "data" / "cues-seed0"
    model, built = load_trained(folder / f"{name}.pt")
    assert model.backbone.grid == (4, 2)
    assert (built.mode is None) == (name == "baseline")
    again = tmp_path / "x.npz"
    assert main(["extract", str(folder / f"{name}.pt"), str(root), "--out", str(again)]) == 0
    kept, found = FeatureSet.load(folder / f"{name}.features.npz"), FeatureSet.load(again)
    assert kept.erased.shape == (len(kept.ids), 64)
    torch.testing.assert_close(found.erased, kept.erased, atol=1e-5, rtol=0)
    assert (found.related is None) == (name == "baseline")
    if found.related is not None:
        torch.testing.assert_close(found.related, kept.related, atol=1e-5, rtol=0)
        assert not torch.allclose(found.related, found.erased, atol=1e-3)
