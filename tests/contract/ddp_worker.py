"""One process of a DDP run: trains two steps of a toy and saves gradients and buffers.

Run as: python -m tests.contract.ddp_worker RANK WORLD FOLDER TOY MODE CASE
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.contract.attached import wrap
from tests.contract.lighter import LIGHTER
from tests.contract.toys import TOYS


def batch_of(toy, case: str, rank: int, step: int):
    """Both modalities everywhere, or rank 1 with infrared rows alone at the second step."""
    if case == "one modality" and rank == 1 and step == 1:
        return toy.batch(10 * step + rank, k=4, modalities=(1,))
    return toy.batch(10 * step + rank)


def main() -> None:
    rank, world, folder, name, mode, case = (
        int(sys.argv[1]),
        int(sys.argv[2]),
        Path(sys.argv[3]),
        *sys.argv[4:],
    )
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    toy = {**TOYS, **LIGHTER}[name]
    torch.manual_seed(0)
    model = wrap(toy, toy.build(), mode, seed=0).train()
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        toy.step_loss(parallel, batch_of(toy, case, rank, step)).backward()
        optimizer.step()
    weights = {n: p.detach() for n, p in model.named_parameters()}
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    torch.save({"weights": weights, "gradients": gradients}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
