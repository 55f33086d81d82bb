"""An evaluation over the processes of ``torch.distributed``: what each one does, and sums of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from zlib import crc32

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """One of several processes that divide a piece of work.

    Attributes:
        index: Number of this process.
        count: Number of processes; with one, nothing is sent.
    """

    index: int = 0
    count: int = 1

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """Every ``count``-th item, for work whose parts cost alike."""
        return items[self.index :: self.count]

    def stretch(self, items: Sequence[T]) -> Sequence[T]:
        """A run of neighbouring items; the runs of all processes make the whole."""
        begin, end = (len(items) * place // self.count for place in (self.index, self.index + 1))
        return items[begin:end]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the processes, on each of them."""
        return self._reduce(value, dist.ReduceOp.SUM)

    def max(self, value: Tensor) -> Tensor:
        """The largest over the processes, element by element."""
        return self._reduce(value, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in some process."""
        if self.count == 1:
            return flag
        return bool(self._reduce(torch.tensor([int(flag)]), dist.ReduceOp.MAX).item())

    def join(self, value: NDArray) -> NDArray:
        """The sum of arrays that are zero where another process has worked: all of the work."""
        return value if self.count == 1 else self.sum(torch.from_numpy(value)).numpy()

    def _reduce(self, value: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.count == 1:
            return value
        nccl = dist.get_backend() == "nccl"
        sent = value.to("cuda" if nccl else "cpu", copy=True).contiguous()
        dist.all_reduce(sent, how)
        return sent.to(value.device)


ALONE = Share()


def all_processes() -> Share:
    """This process among those of the default group; ``ALONE`` without one."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Share(dist.get_rank(), dist.get_world_size())


@contextmanager
def process_group(device: torch.device | str | None = None) -> Iterator[Share]:
    """Joins the processes that ``torchrun`` has started, if it has, for as long as it is open.

    Args:
        device: Where they compute: ``cuda`` takes NCCL and the GPU of the local rank, else gloo.

    Yields:
        This process among them.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not several or dist.is_initialized():
        yield all_processes()
        return
    cuda = device is not None and torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield all_processes()
    finally:
        dist.destroy_process_group()


def same_everywhere(share: Share, labels: Sequence[Tensor], values: Sequence[Tensor]) -> bool:
    """Whether every process holds the same, by checksums of labels and sums of values."""
    if share.count == 1:
        return True
    sums = [float(crc32(label.cpu().numpy().tobytes())) for label in labels]
    sums += [float(value.sum(dtype=torch.float64)) for value in values]
    mine = torch.tensor([len(sums), sum(sums), *sums[:4]], dtype=torch.float64)
    return torch.equal(share.max(mine), -share.max(-mine))
