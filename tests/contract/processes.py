"""Real processes that meet in one group, started once for all cases of a test module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def start(*words):
    return subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(processes, seconds=300):
    try:
        return [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def run(module, world, folder, *words, meanwhile=lambda: None):
    """What each process saved, and what this one made of the time."""
    processes = [start("-m", module, str(r), str(world), str(folder), *words) for r in range(world)]
    try:
        made = meanwhile()
    finally:
        outputs = end(processes)
    assert all(p.returncode == 0 for p in processes), "\n".join(outputs)
    saved = [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(world)]
    return saved, made
