"""One process of several that train by ``fit`` together; the test trains alone by the same code.

Run as: python -m tests.contract.parallel_fit_worker RANK WORLD FOLDER
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mixer_plugin import MixERConfig, wrap_with_mixer
from mixer_plugin.attach import mixer_parameters
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Batch, Loop, Step
from mixer_plugin.baselines.sgeil import SGEILLoop
from mixer_plugin.benchmarks.training.fit import TrainingSet, fit
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.benchmarks.training.signals import Interrupted
from mixer_plugin.benchmarks.training.steps import FrozenBase, WithMixER
from mixer_plugin.data.loading.transforms import Augmentation
from mixer_plugin.distributed.processes import main_process_first, on_all_ranks, on_main_process
from mixer_plugin.errors import MixERError, MixERValueError
from tests.contract.gathering_worker import meet
from tests.contract.toys import CLASSES, IMAGE

STILL = Augmentation(flip=0.0, pad=0, erase=0.0, grey="none", grey_p=None)
LIVELY = Augmentation(pad=1, erase=0.5)
NETWORK = {"saai": {"image_size": IMAGE}, "saai-base": {"image_size": IMAGE}}
NETWORK |= {"ddag": {"low_dim": 8, "drop": 0.0}, "deen": {"drop": 0.0}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A training.

    Attributes:
        network: a baseline; ``branches``, half of which trains at every other step alone; or
            ``rows``, whose rows do not see each other.
        mode: of MixER; ``frozen``: mode "f" on a base that does not train; None: without MixER.
        steps: of the optimizer.
        exact: in double precision and without draws, to be compared with one process.
        optimizer: its name.
        overflow: at the second step, the loss of rank 1 alone is too large for fp16.
        p: identities per batch.
        options: of the trainer.
    """

    network: str = "saai-base"
    mode: str | None = None
    steps: int = 4
    exact: bool = False
    optimizer: str = "sgd"
    overflow: bool = False
    p: int = 4
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


AS_ONE = {
    "e2e as one": Case(mode="e2e", steps=20, exact=True),
    "f as one": Case(mode="f", steps=8, exact=True, optimizer="adam"),
    "blocks as one": Case(network="ddag", mode="e2e", steps=8, exact=True),
    "frozen as one": Case(network="ddag", mode="frozen", exact=True),
    "an idle branch": Case(network="branches", exact=True, optimizer="adam"),
    "accumulated": Case(network="rows", exact=True, options={"accumulate": 2}),
    "averaged": Case(exact=True, options={"ema": 0.5}),
}
APART = {"apart": Case(mode="e2e", exact=True, options={"gather": False})}
EVERY = {
    f"{network} {mode}": Case(network=network, mode=mode, steps=2)
    for network in ("saai", "mpanet", "idkl", "ddag", "deen", "sgeil")
    for mode in (None, "e2e", *(("f", "frozen") if network in ("idkl", "sgeil") else ()))
}
ALIKE = {
    "bf16": Case(mode="f", options={"precision": "bf16"}),
    "fp16": Case(mode="e2e", options={"precision": "fp16"}, overflow=True),
    "fp16 frozen": Case(mode="frozen", options={"precision": "fp16"}),
    "compiled": Case(network="rows", exact=True, options={"compile": "eager"}),
    "sgeil mixed": Case(network="sgeil", mode="e2e", steps=5),
    "sgeil apart": Case(network="sgeil", mode="e2e", steps=3, options={"gather": False}),
}
REFUSED = {
    "p": Case(p=3),
    "parts": Case(options={"accumulate": 4}),
    "scales": Case(mode="f", options={"precision": "fp16"}),
}
STOPPED = {"stopped": Case(mode="e2e", steps=6, options={"ema": 0.9})}
STOPPED |= {"stopped exact": Case(steps=6, exact=True)}
DYING = {"dying": Case(steps=6, exact=True, options={"checkpoint_every": 2})}
FAMILIES = (AS_ONE, APART, EVERY, ALIKE, REFUSED, STOPPED, DYING)
CASES = {name: case for family in FAMILIES for name, case in family.items()}


class Branches(nn.Module):
    """Two linear maps, the second used when asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.always, self.sometimes = nn.LazyLinear(CLASSES), nn.LazyLinear(CLASSES)
        self(torch.zeros(2, 3, *IMAGE), True)

    def forward(self, images: torch.Tensor, both: bool) -> torch.Tensor:
        x = self.stem(images).flatten(1)
        return self.always(x) + self.sometimes(x) if both else self.always(x)


class BranchesLoop(Loop):
    """Cross-entropy; every other forward goes through both branches."""

    calls = 0

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        self.calls += 1
        logits = net(batch.images, self.calls % 2 == 1)
        return Step(None, nn.functional.cross_entropy(logits, batch.labels))


class RowsLoop(Loop):
    """Cross-entropy alone."""

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        return Step(None, nn.functional.cross_entropy(net(batch.images), batch.labels))


class Changed(Loop):
    """A loop whose images are in double precision, or whose loss overflows at one rank."""

    def __init__(self, inner: Loop, case: Case, rank: int) -> None:
        super().__init__()
        self.inner, self.case, self.rank, self.calls = inner, case, rank, 0
        self.start_epoch, self.stepped = inner.start_epoch, inner.stepped  # type: ignore[method-assign]

    @property
    def rows(self) -> str:  # type: ignore[override]
        return self.inner.rows

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        self.calls += 1
        if self.case.exact:
            shapes = None if batch.shapes is None else batch.shapes.double()
            images = batch.images.double()
            batch = dataclasses.replace(batch, images=images, shapes=shapes)
        step = self.inner(net, batch)
        if self.case.overflow and self.rank == 1 and self.calls == 2:
            return dataclasses.replace(step, loss=step.loss * 1e38)
        return step


def images() -> TrainingSet:
    """Six images of each identity, and shapes."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(6)
    modality = torch.tensor([0, 1]).repeat(3 * CLASSES)
    pixels, shapes = torch.randint(0, 256, (2, len(labels), 3, *IMAGE), generator=g).byte()
    return TrainingSet(pixels, labels, modality, 1 + 2 * modality, shapes)


def build(case: Case) -> tuple[nn.Module, Loop]:
    """The network, wrapped if it has a mode, and its loop."""
    torch.manual_seed(0)
    if case.network == "branches":
        return Branches(), BranchesLoop()
    if case.network == "rows":
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 16, CLASSES)), RowsLoop()
    net = create_baseline(case.network, CLASSES, trunk="small", **NETWORK.get(case.network, {}))
    loop: Loop = create_loop(case.network)
    if case.network == "sgeil":
        loop = SGEILLoop(mix=0.5)  # mixed batches give the heads no gradient
    if case.mode is not None:
        frozen = case.mode == "frozen"
        # The mask goes by the place of a row, which another order of gathered rows changes.
        dropout = 0.3 if loop.rows == "grouped" or not case.exact else 0.0
        config = MixERConfig(frozen_base=frozen, confusion_dropout=dropout)
        wrap_with_mixer(net, "e2e" if case.mode == "e2e" else "f", config=config, seed=0)
        loop = FrozenBase(loop) if frozen else WithMixER(loop)
    return net, loop


def train(
    name: str,
    *,
    rank: int = 0,
    checkpoint: Path | None = None,
    log: tuple[Path, str] | None = None,
    stepped: Callable[[int], None] = lambda calls: None,
) -> dict[str, torch.Tensor]:
    """Weights and buffers after a training; ``stepped`` is called within each step."""
    case = CASES[name]
    net, inner = build(case)
    net = net.double() if case.exact else net
    parameters = mixer_parameters(net) if case.mode == "frozen" else list(net.parameters())
    loop = Changed(inner, case, rank)

    def after(net: nn.Module, done: Callable[[nn.Module], None] = inner.stepped) -> None:
        done(net)
        stepped(loop.calls)

    loop.stepped = after  # type: ignore[method-assign]
    fit(
        net,
        [p for p in parameters if p.requires_grad],
        loop,
        images(),
        Recipe(
            p=case.p,
            k=2,
            iterations=case.steps,
            lr=1e-3 if case.optimizer == "adam" else 0.03,
            warmup=2,
            optimizer=case.optimizer,
            augmentation=STILL if case.exact else LIVELY,
        ),
        seed=0,
        options=TrainingOptions(log_every=1, **{"checkpoint_every": 100, **case.options}),
        checkpoint=checkpoint,
        log=log,
    )
    return {key: value.clone() for key, value in net.state_dict().items()}


def digest(state: dict[str, torch.Tensor]) -> tuple[str, bool]:
    """Of the values, and whether all are finite."""
    found = hashlib.sha256()
    for value in state.values():
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest(), all(bool(value.isfinite().all()) for value in state.values())


def stop_and_resume(name: str, rank: int, folder: Path) -> dict[str, Any]:
    """A signal to the second process alone, twice; then the rest of the training."""
    path = folder / f"{name}.pt"

    def interrupt(calls: int) -> None:
        if rank == 1 and calls == 3:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    try:
        train(name, rank=rank, checkpoint=path, stepped=interrupt)
    except Interrupted as stop:
        saved = torch.load(path, weights_only=True)
        status = stop.status
    signal.signal(signal.SIGTERM, before)
    dist.barrier()
    if rank == 0:
        (folder / f"{name}-copy.pt").write_bytes(path.read_bytes())
    after = []
    rest = train(name, rank=rank, checkpoint=path, stepped=after.append)
    whole = train(name, rank=rank)
    made = len(after)
    return {"status": status, "step": saved["step"], "rest": rest, "whole": whole, "made": made}


def refusal(name: str, rank: int, folder: Path) -> tuple[str, list[str]]:
    """What an error says, and what has been written by then."""
    try:
        train(name, rank=rank, checkpoint=folder / f"{name}.pt", log=(folder, name))
    except MixERError as error:
        return str(error), [path.name for path in folder.glob(f"{name}.*")]
    return "nothing", []


def told(rank: int, folder: Path) -> dict[str, Any]:
    """What steps of a command give, or with which status they end and what is said of it."""

    def fail(where: int, error: Exception) -> str:
        if rank == where:
            raise error
        return f"done by {rank}"

    def find() -> bool:
        found = (folder / "cached").exists()
        (folder / "cached").touch()
        return found

    steps: dict[str, Callable[[], Any]] = {
        "first": lambda: on_main_process("table3", lambda: f"done by {rank}"),
        "all": lambda: on_all_ranks("table3", lambda: f"done by {rank}"),
        "cached": lambda: main_process_first("table3", find),
        "first fails": lambda: on_main_process(
            "table3", lambda: fail(0, MixERValueError("no folder"))
        ),
        "second fails": lambda: on_all_ranks("table3", lambda: fail(1, OSError("no disk"))),
        "a mistake": lambda: main_process_first("table3", lambda: fail(1, KeyError("mistake"))),
    }
    saved: dict[str, Any] = {}
    for name, step in steps.items():
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                saved[name] = [step()]
            except SystemExit as end:
                saved[name] = [f"status {end.code}"]
        saved[name].append(said.getvalue())
    return saved


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    meet(rank, world, folder)
    saved: dict[str, Any] = {}
    for name in (*AS_ONE, *APART, *EVERY, *ALIKE):
        made = train(name, rank=rank, log=(folder, name))
        saved[name] = made if name in (*AS_ONE, *APART) else digest(made)
    saved["refused"] = {name: refusal(name, rank, folder) for name in REFUSED}
    saved["told"] = told(rank, folder)
    for name in STOPPED:
        saved[name] = stop_and_resume(name, rank, folder)
    dist.barrier()

    def die(calls: int) -> None:
        if rank == 1 and calls == 5:
            torch.save(saved, folder / "rank1.pt")
            os._exit(9)

    try:
        train("dying", rank=rank, checkpoint=folder / "dying.pt", stepped=die)
    except MixERError as error:
        saved["left"] = f"{type(error).__name__}: {error}"
    torch.save(saved, folder / "rank0.pt")


if __name__ == "__main__":
    main()
