"""One process of three: gathered rows, synchronised norms and shared extraction, one by one.

Run as: python -m tests.contract.pieces_worker RANK WORLD FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mixer_plugin import MixERError, extract_features, wrap_with_mixer
from mixer_plugin.baselines import create_baseline
from mixer_plugin.distributed.gather import gather_rows
from mixer_plugin.distributed.sync_batchnorm import SyncNorm, synchronise_norms
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.shared import extract_together
from tests.contract.gathering_worker import meet
from tests.contract.toys import CLASSES, IMAGE, make_batch

ROWS = (3, 0, 2)  # of each process


def tensors() -> dict[str, torch.Tensor]:
    """Rows of all processes, of every kind that is gathered."""
    generator = torch.Generator().manual_seed(0)
    total = sum(ROWS)
    return {
        "double": torch.randn(total, 4, generator=generator, dtype=torch.float64),
        "half": torch.randn(total, 2, 3, generator=generator).bfloat16(),
        "labels": torch.arange(total) * 2**40,
        "mask": torch.arange(total) % 2 == 0,
    }


def own_rows(rank: int) -> slice:
    """The process's rows among those of all."""
    return slice(sum(ROWS[:rank]), sum(ROWS[: rank + 1]))


def loss_of(found: dict[str, torch.Tensor], scale: float) -> torch.Tensor:
    """A loss that compares every row with every other, in both floating tensors."""
    x, half = found["double"], found["half"].double()
    pairs = torch.cdist(x, x).square().sum() + (half.flatten(1) @ half.flatten(1).T).pow(3).sum()
    return scale * pairs


def gathered(rank: int) -> dict[str, Any]:
    """Outputs of a gather, and gradients of a loss that all share and of one that differs."""
    saved: dict[str, Any] = {}
    for name, scale in (("shared", 1.0), ("own", rank + 1.0)):
        mine = {key: value[own_rows(rank)].clone() for key, value in tensors().items()}
        for key in ("double", "half"):
            mine[key].requires_grad_()
        found = dict(zip(mine, gather_rows(*mine.values()), strict=True))
        loss_of(found, scale).backward()
        saved[name] = {key: mine[key].grad for key in ("double", "half")}
        saved["rows"] = {key: value.detach() for key, value in found.items()}
    return saved


NORMS = {
    "1d": (nn.BatchNorm1d(4), (4,)),
    "1d of sequences": (nn.BatchNorm1d(4), (4, 5)),
    "2d": (nn.BatchNorm2d(4), (4, 3, 2)),
    "2d, cumulative": (nn.BatchNorm2d(4, momentum=None), (4, 3, 2)),
    "1d, bare": (nn.BatchNorm1d(4, affine=False), (4,)),
    "1d, untracked": (nn.BatchNorm1d(4, track_running_stats=False), (4,)),
    "1d, no bias": (nn.BatchNorm1d(4), (4,)),
}
NORMS["1d, no bias"][0].bias = None


def normed(name: str, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    """Two steps of a norm on some of the rows: outputs, gradients, statistics."""
    norm, shape = NORMS[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, sum(ROWS), *shape, generator=generator, dtype=torch.float64) * 3 + 2
    weight = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
    norm = norm.double()
    if norm.weight is not None:
        norm.weight.data = torch.linspace(0.5, 2, 4, dtype=torch.float64)
    if norm.bias is not None:
        norm.bias.data = torch.linspace(-1, 1, 4, dtype=torch.float64)
    own = x[:, rows].clone().requires_grad_()
    first = norm(own[0])
    out = norm(own[1])
    (first.sin() * weight[rows]).sum().backward()
    (out.square() * weight[rows]).sum().backward()
    saved = {"out": out.detach(), "grad": own.grad}
    saved |= {key: p.grad for key, p in norm.named_parameters()}
    return saved | {key: value.clone() for key, value in norm.named_buffers()}


def far_from_zero(rows: slice) -> torch.Tensor:
    """Float32 values whose mean is 10,000 times their spread."""
    x = torch.randn(sum(ROWS), 4, generator=torch.Generator().manual_seed(2))
    norm = nn.BatchNorm1d(4, affine=False)
    synchronise_norms(norm)
    return norm((x + 1e4)[rows])


class Images(Dataset):
    """Twenty images as a reader gives them; keeps the numbers of those that were loaded."""

    def __init__(self) -> None:
        self.loaded: list[int] = []
        self.parts = [make_batch(seed, p=2, k=2) for seed in range(3)]

    def __len__(self) -> int:
        return 21

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        self.loaded.append(index)
        part, row = self.parts[index // 8], index % 8
        return (
            part.images[row],
            part.labels[row],
            part.cams[row],
            part.modality[row],
            f"{index}.jpg",
        )


def wrapped() -> nn.Module:
    """A network whose features depend on the batch of an image in no bit."""
    torch.manual_seed(0)
    net = create_baseline("saai-base", CLASSES, trunk="small", image_size=IMAGE)
    return wrap_with_mixer(net, seed=0).eval()


def extracted(share: bool) -> dict[str, Any]:
    """Features over loaders of several kinds, and which images were loaded for them."""
    net, images = wrapped(), Images()
    loader = DataLoader(images, batch_size=4)
    saved: dict[str, Any] = {"loader": extract_features(net, loader, share=share)}
    saved["loaded"] = sorted(images.loaded)
    listed = list(loader)
    saved["list"] = extract_features(net, listed, share=share)
    saved["one batch"] = extract_features(net, listed[:1], share=share)
    saved["no paths"] = extract_features(net, [batch[:4] for batch in listed], share=share)
    return saved


def error_of(run: Any) -> str:
    """The message of the error that a call raises; empty if it raises none of ours."""
    try:
        run()
    except MixERError as error:
        return str(error)
    return ""


def unlike(width: int) -> FeatureSet:
    """Features of one image, this wide."""
    zero = torch.zeros(1, dtype=torch.int64)
    return FeatureSet(torch.ones(1, width), None, zero, zero, zero)


def errors(rank: int) -> dict[str, str]:
    """What every process says when the processes do not fit together."""
    net, batch = wrapped(), make_batch(0)
    good = (batch.images, batch.labels, batch.cams)
    bad = good[:2] if rank == 1 else good
    norm = nn.BatchNorm1d(4)
    synchronise_norms(norm)
    heads = wrap_with_mixer(create_baseline("mpanet", CLASSES, trunk="small"))
    synchronise_norms(heads.mixer.heads["visible"])
    return {
        "widths": error_of(lambda: gather_rows(torch.zeros(2, 3 if rank else 2))),
        "one value": error_of(lambda: norm(torch.zeros(int(rank == 0), 4))),
        "no batch": error_of(lambda: extract_features(net, [], share=True)),
        "batch": error_of(lambda: extract_features(net, [good, bad, good], share=True)),
        "batches": error_of(
            lambda: extract_together(lambda _: [unlike(2), unlike(2 + (rank == 1))], [good] * 3)
        ),
        "half synchronised": error_of(
            lambda: heads.train()(batch.images, batch.labels, cam_ids=batch.cams)
        ),
    }


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    meet(rank, world, folder)
    for norm, _ in NORMS.values():
        assert synchronise_norms(norm) == 1
        assert isinstance(norm, SyncNorm)
    alone = extract_features(wrapped(), list(DataLoader(Images(), batch_size=4))) if rank else None
    found = {
        "gathered": gathered(rank),
        "norms": {name: normed(name, own_rows(rank)) for name in NORMS},
        "far": far_from_zero(own_rows(rank)),
        "extracted": extracted(share=True),
        "alone": alone,
        "errors": errors(rank),
    }
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
