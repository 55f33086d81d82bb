"""One process of a DDP run: trains toys for a few steps and saves gradients and weights.

Run as: python -m tests.contract.ddp_worker RANK WORLD FOLDER TOY:MODE:BATCHES…
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.contract.attached import wrap
from tests.contract.gathering_worker import meet
from tests.contract.toys import TOYS
from tests.contract.variants import VARIANTS


def batch_of(toy, case: str, rank: int, step: int):
    """Both modalities everywhere, or rank 1 with infrared rows alone at the second step."""
    if case == "one modality" and rank == 1 and step == 1:
        return toy.batch(10 * step + rank, k=4, modalities=(1,))
    return toy.batch(10 * step + rank)


def train(rank: int, name: str, mode: str, case: str) -> dict[str, dict[str, torch.Tensor]]:
    """Weights and gradients after three steps."""
    toy = {**TOYS, **VARIANTS}[name]
    torch.manual_seed(0)
    model = wrap(toy, toy.build(), mode, seed=0).train()
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        toy.step_loss(parallel, batch_of(toy, case, rank, step)).backward()
        optimizer.step()
    return {
        "weights": {n: p.detach() for n, p in model.named_parameters()},
        "gradients": {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
    }


def main() -> None:
    rank, world, folder, *cases = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        Path(sys.argv[3]),
        *sys.argv[4:],
    )
    meet(rank, world, folder)
    torch.save({case: train(rank, *case.split(":")) for case in cases}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
