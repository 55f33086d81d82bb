"""One process of several that train on one batch together; the test trains on it alone.

Run as: python -m tests.contract.gathering_worker RANK WORLD FOLDER CASE…
"""

from __future__ import annotations

import dataclasses
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mixer_plugin import MixERConfig, mixer_loss, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Batch, Loop
from mixer_plugin.baselines.sgeil import SGEILLoop
from mixer_plugin.distributed.gather import gather_rows
from mixer_plugin.distributed.sync_batchnorm import synchronise_norms
from mixer_plugin.forward.mixed import mixer_of
from tests.contract.toys import CLASSES, IMAGE, make_batch


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained, and what of it spans the processes."""

    baseline: str
    mode: str = "e2e"
    optimizer: str = "sgd"
    steps: int = 20
    gather: bool = True
    synced: bool = True
    one_modality: bool = False
    static: bool = False


TOGETHER = {
    "saai-base e2e": Case("saai-base"),
    "saai-base f": Case("saai-base", mode="f"),
    "saai-base e2e adam": Case("saai-base", optimizer="adam", steps=8),
    "ddag e2e": Case("ddag"),
    "ddag f": Case("ddag", mode="f"),
    "deen e2e": Case("deen", steps=3),
    "sgeil e2e": Case("sgeil", steps=3),
    "mpanet e2e": Case("mpanet", steps=3),
    "idkl e2e": Case("idkl", steps=3),
    "saai-base static graph": Case("saai-base", steps=3, static=True),
    "ddag static graph": Case("ddag", steps=3, static=True),
}
APART = {
    "saai-base rows apart": Case("saai-base", gather=False, steps=3),
    "saai-base norms apart": Case("saai-base", synced=False, steps=3),
    "ddag rows apart": Case("ddag", gather=False, steps=3),
}
# Rank 1 has infrared rows alone at every other step.
ONE_MODALITY = {
    "synced norms": Case("saai-base", steps=4, one_modality=True),
    "norms apart": Case("saai-base", steps=4, one_modality=True, synced=False),
    "synced norms f": Case("saai-base", mode="f", steps=4, one_modality=True),
}
OF_FOUR = {
    "saai-base of four": Case("saai-base", steps=3),
    "ddag of four": Case("ddag", steps=3),
}
CASES = TOGETHER | APART | ONE_MODALITY | OF_FOUR
# Of the bases' own: what is drawn at random differs from rank to rank.
STILL = {"ddag": {"low_dim": 8, "drop": 0.0}, "deen": {"drop": 0.0}}


def build(case: Case) -> tuple[torch.nn.Module, Loop]:
    """The wrapped network in double precision, for sums in another order, and its loop."""
    options = {"image_size": IMAGE} if case.baseline == "saai-base" else {}
    options |= STILL.get(case.baseline, {})
    torch.manual_seed(0)
    model = create_baseline(case.baseline, CLASSES, trunk="small", **options).double()
    # The script family's rows, visible ones first, are in another order when gathered, and the
    # dropout's mask goes by the place of a row.
    dropout = 0.3 if case.baseline in ("saai-base", "mpanet", "idkl") else 0.0
    config = MixERConfig(gather=case.gather, confusion_dropout=dropout)
    wrap_with_mixer(model, case.mode, config=config, seed=0)
    if case.gather:
        model.gather = gather_rows
    model.train()
    if case.baseline == "idkl":
        model.D_special.eval()
        model.D_shared_pseu.eval()
    loop = SGEILLoop(mix=0.0) if case.baseline == "sgeil" else create_loop(case.baseline)
    return model, loop


def share_of(batch: Batch, rank: int, world: int) -> Batch:
    """The rows of this process's identities, in their order."""
    identities = list(dict.fromkeys(batch.labels.tolist()))
    own = torch.tensor(identities[len(identities) * rank // world :][: len(identities) // world])
    return _rows(batch, torch.isin(batch.labels, own))


def _rows(batch: Batch, rows: torch.Tensor) -> Batch:
    return Batch(*(getattr(batch, f.name)[rows] for f in dataclasses.fields(batch)))


def train(case: Case, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    """Weights, buffers and the loop's state after training, and each step's loss."""
    model, loop = build(case)
    if case.synced:
        assert synchronise_norms(model) > 10
    net = DistributedDataParallel(model, static_graph=case.static) if world > 1 else model
    trained = [p for p in model.parameters() if p.requires_grad]
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[case.optimizer]
    optimizer = make(trained, lr=0.05 if case.optimizer == "sgd" else 1e-3)
    losses = []
    for step in range(case.steps):
        loop.start_epoch(net, step // 2)
        batch = share_of(make_batch(step, p=4, k=2, rows=loop.rows), rank, world)
        batch = dataclasses.replace(
            batch, images=batch.images.double(), shapes=batch.shapes.double()
        )
        if case.one_modality and rank == 1 and step % 2:
            batch = _rows(batch, batch.modality == 1)
        optimizer.zero_grad()
        found = loop(net, batch)
        loss = found.loss
        if not mixer_of(net).adds_loss_in_forward:
            loss = loss + mixer_loss(net, found.labels)
        loss.backward()
        optimizer.step()
        loop.stepped(net)
        losses.append(loss.detach().double())
    state = {**model.state_dict(), **{f"loop.{k}": v for k, v in loop.state_dict().items()}}
    state["loss"] = torch.stack(losses)
    return {key: value.clone() for key, value in state.items()}


def meet(rank: int, world: int, folder: Path, seconds: float = 60) -> None:
    """Joins the processes of a test."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=seconds),
    )


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    meet(rank, world, folder)
    found = {name: train(CASES[name], rank, world) for name in sys.argv[4:]}
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
