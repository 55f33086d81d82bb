"""DistributedDataParallel with real processes: 1 and 2 ranks, and a batch of one modality."""

import os
import subprocess
import sys

import pytest
import torch

from mixer_plugin import wrap_with_mixer
from tests.contract.ddp_worker import batch_of
from tests.contract.toys import TOYS


def launch(folder, world, *words):
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.contract.ddp_worker",
                str(rank),
                str(world),
                folder,
                *words,
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [p.communicate(timeout=120)[0] for p in processes]
    assert all(p.returncode == 0 for p in processes), "\n".join(outputs)
    return [torch.load(f"{folder}/rank{rank}.pt") for rank in range(world)]


def train_alone(name, mode, batches):
    """The same steps in this process; the gradient is the mean over the ranks' batches."""
    toy = TOYS[name]
    torch.manual_seed(0)
    model = wrap_with_mixer(toy.build(), mode, adapter=toy.adapter(), seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for batch in batches:
        optimizer.zero_grad()
        toy.step_loss(model, batch).backward()
        optimizer.step()
    return {n: p.detach() for n, p in model.named_parameters()}


BOTH_MODES = [(name, mode) for name in ("saai", "generic") for mode in ("e2e", "f")]
END_TO_END = [(name, "e2e") for name in ("ddag", "deen", "sgeil", "mpanet", "idkl")]


@pytest.mark.parametrize(("name", "mode"), BOTH_MODES + END_TO_END)
def test_one_process_equals_none(tmp_path, name, mode):
    (rank,) = launch(str(tmp_path), 1, name, mode, "mixed")
    expected = train_alone(
        name, mode, [batch_of(TOYS[name], "mixed", 0, step) for step in range(3)]
    )
    for key, value in expected.items():
        torch.testing.assert_close(rank["weights"][key], value, msg=key)


# In the codebases' own loops a batch has both modalities; SAAI's and a generic one need not.
TWO = [(*pair, case) for pair in BOTH_MODES for case in ("mixed", "one modality")]
TWO += [("saai/low-rank", "e2e", "one modality")]


@pytest.mark.parametrize(("name", "mode", "case"), TWO + [(*pair, "mixed") for pair in END_TO_END])
def test_two_processes_agree(tmp_path, name, mode, case):
    first, second = launch(str(tmp_path), 2, name, mode, case)
    assert list(first["gradients"]) == list(second["gradients"])
    assert sum(n.startswith("mixer.") for n in first["gradients"]) > 5
    for key, value in first["weights"].items():
        assert torch.equal(value, second["weights"][key]), key
    assert all(torch.isfinite(g).all() for g in first["gradients"].values())
