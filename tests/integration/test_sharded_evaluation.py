"""Evaluation under ``torchrun``: the same numbers, to the last digit, as one process alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.integration import evaluate_worker

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch with gloo"
)


def torchrun(processes: int, *arguments: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_gives_identical_json(processes, tmp_path, monkeypatch):
    torchrun(processes, str(ROOT / "tests" / "integration" / "evaluate_worker.py"), str(tmp_path))
    monkeypatch.setattr("mixer_plugin.products._TILE", 48)
    alone = evaluate_worker.run("auto")
    assert '"mAP"' in alone
    for shard in ("rows", "gallery"):
        for rank in range(processes):
            made = (tmp_path / f"{shard}-{processes}-{rank}.json").read_text()
            assert made == alone, (shard, rank)
