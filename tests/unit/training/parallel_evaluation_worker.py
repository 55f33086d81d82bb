"""One process of two that train by DDP and evaluate in the middle.

Run by torchrun: python -m tests.unit.training.parallel_evaluation_worker FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mixer_plugin.training import evaluate_in_training, keep_best
from tests.contract.attached import build, wrap
from tests.contract.toys import TOYS
from tests.unit.training.test_evaluation_in_training import gallery


def trained(folder: Path | None) -> dict[str, Any]:
    """Three steps of DDP; with a folder, each is followed by an evaluation and its checkpoint."""
    toy = TOYS["saai-base"]
    model = wrap(toy, build(toy))
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.manual_seed(dist.get_rank())
    figures, best = [], None
    loop = toy.loop()
    loop.start_epoch(model, 0)
    for step in range(3):
        loss = toy.step_loss(parallel.train(), toy.batch(None), loop)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.stepped(model)
        if folder is not None:
            figures.append(evaluate_in_training(parallel, gallery()))
            best = keep_best(parallel, figures[-1], folder / "best.pt", best=best, step=step)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return {"state": state, "figures": figures, "best": best, "drawn": torch.rand(3)}


def main() -> None:
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    found = {"plain": trained(None), "watched": trained(folder)}
    torch.save(found, folder / f"rank{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
