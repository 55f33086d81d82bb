"""Two processes evaluate together in the middle of DDP, which goes on as if they had not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixer_plugin.checkpoints import load_checkpoint
from mixer_plugin.training import best_so_far, evaluate_in_training
from tests import processes
from tests.contract.attached import assert_equal, build, wrap
from tests.contract.toys import TOYS
from tests.unit.training.test_evaluation_in_training import gallery


@pytest.mark.slow
def test_two_processes_share_the_work_and_get_the_same_figures(tmp_path: Path) -> None:
    done = processes.torchrun("-m", "tests.unit.training.parallel_evaluation_worker", tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    for found in (first, second):
        assert_equal(found["plain"]["state"], found["watched"]["state"])
        assert torch.equal(found["plain"]["drawn"], found["watched"]["drawn"])
    assert first["watched"]["figures"] == second["watched"]["figures"]
    best = max(each["mix/mAP"] for each in first["watched"]["figures"])
    assert first["watched"]["best"] == second["watched"]["best"] == best
    assert best_so_far(tmp_path / "best.pt") == best

    toy = TOYS["saai-base"]
    alone = wrap(toy, build(toy))
    load_checkpoint(alone, tmp_path / "best.pt")
    kept = torch.load(tmp_path / "best.pt")
    assert evaluate_in_training(alone, gallery()) == pytest.approx(kept["figures"], abs=1e-6)
