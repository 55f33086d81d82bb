"""The processes that ``torchrun`` starts: joining, sharing work, failing together."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from zlib import crc32

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERError, MixERRuntimeError, MixERValueError

T = TypeVar("T")
_WRONG_INPUT, _FAILED = 2, 1
# What the backends say of a peer; most raise a plain RuntimeError.
_LOST_WORDS = ("gloo", "nccl", "connection closed", "connection reset", "timed out")


class LostProcessError(MixERRuntimeError):
    """Another process has ended, or does not come."""


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
        """The work of all processes: the sum of arrays, each zero where another has worked."""
        return value if self.count == 1 else self.sum(torch.from_numpy(value)).numpy()

    def _reduce(self, value: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.count == 1:
            return value
        # A backend of its own sends from its own device; a group with both sends from either.
        device = {"nccl": "cuda", "gloo": "cpu"}.get(dist.get_backend(), value.device)
        sent = value.to(device, copy=True).contiguous()
        dist.all_reduce(sent, how)
        return sent.to(value.device)


ALONE = Share()


def count_processes() -> int:
    """Number of processes of the default group; 1 without one."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def rank() -> int:
    """Number of this process among those of the default group; 0 without one."""
    return dist.get_rank() if count_processes() > 1 else 0


def all_processes() -> Share:
    """This process among those of the default group; ``ALONE`` without one."""
    return Share(rank(), count_processes())


class _AllEnd(SystemExit):
    """What every process of a group raises, once all know that the work has failed."""


@contextlib.contextmanager
def process_group(
    device: torch.device | str | None = None,
    *,
    option: str = "device",
    timeout: timedelta = timedelta(minutes=30),
) -> Iterator[Share]:
    """Within the block the processes that ``torchrun`` started, if any, form a process group.

    Args:
        device: where they compute. ``cuda``: NCCL between GPUs, one to a process, and gloo for what
            lies on the CPU, so that no exchange of a flag waits for a GPU; else gloo.
        option: name of the option that says so, for the message.
        timeout: of a process that waits for one that neither comes nor ends.

    Yields:
        This process among them.

    Raises:
        MixERValueError: if there is no GPU for each process, or torchrun could not restart them.
        MixERRuntimeError: if they cannot reach each other.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        yield all_processes()
        return
    cuda = device is not None and torch.device(device).type == "cuda"
    if cuda:
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:
            raise MixERValueError(
                f"{option} is 'cuda', and {here} processes were started on a machine with {gpus} "
                f"GPUs; expected one each. Set --nproc-per-node, or {option}: cpu."
            )
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    one_machine = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not one_machine and shared and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise MixERValueError(
            "torchrun --max-restarts would give restarted processes on several machines addresses "
            "of processes that are gone. Start it with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its "
            "environment and --rdzv-backend=c10d, or without --max-restarts."
        )
    try:
        store, number, world = next(dist.rendezvous("env://", timeout=timeout))
        if one_machine:  # of several machines, each counts its own restarts
            store = dist.PrefixStore(f"start-{_restarts()}", store)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(
            backend, store=store, rank=number, world_size=world, timeout=timeout
        )
    except (RuntimeError, ValueError) as error:
        raise MixERRuntimeError(
            f"{world} processes cannot join ({_reason(error)}). Start them with torchrun; several "
            "machines must reach the address that it is given, and each other."
        ) from error
    # After an error the others may be waiting: only the end of this process tells them. Where all
    # end together, connections that are left open may abort a process that ends a little later.
    try:
        yield all_processes()
    except _AllEnd:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def restarted() -> bool:
    """Whether ``torchrun`` has restarted some of the processes, after one failed."""
    return all_processes().any(_restarts() > 0)


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def on_all_ranks(command: str, work: Callable[[], T]) -> T:
    """Runs work on every process and returns its result; if one fails, all raise.

    Args:
        command: ``mixer-plugin``'s, whose name goes before the message.
        work: may raise between the exchanges of two processes only if it does so in all of them.

    Raises:
        SystemExit: in all of several processes, if the work fails in one. The first of those in
            which it did says why on stderr: a :class:`MixERError` or ``OSError`` in one line with
            status 2, anything else by its traceback with status 1.
        Exception: what the work raised, in a process that is alone.
    """
    if count_processes() == 1:
        return work()
    status, failure, result = None, None, None
    try:
        result = work()
    except Exception as error:
        failure = error
        status = _WRONG_INPUT if isinstance(error, (MixERError, OSError)) else _FAILED
    told: list[int | None] = [None] * count_processes()
    try:
        dist.all_gather_object(told, status)
    except RuntimeError:  # a lost process fails the work, and then this exchange
        if failure is not None:
            raise failure from None
        raise
    failed = [number for number, status in enumerate(told) if status is not None]
    if not failed:
        return result  # type: ignore[return-value]  # it is what work returned
    if failed[0] == rank():
        if status == _WRONG_INPUT:
            print(f"mixer-plugin {command}: {failure}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(failure)
    # Once one process ends, torchrun ends the others: not before that is said.
    all_processes().any(False)
    raise _AllEnd(told[failed[0]])


def on_main_process(command: str, work: Callable[[], T]) -> T:
    """Runs work on the first process and returns its result on all.

    Args:
        command: as in :func:`on_all_ranks`, which says what is raised.
        work: not to exchange anything with other processes; its result can be pickled.
    """
    told: list[Any] = [on_all_ranks(command, lambda: work() if rank() == 0 else None)]
    if count_processes() > 1:
        dist.broadcast_object_list(told)
    result: T = told[0]
    return result


def main_process_first(command: str, work: Callable[[], T]) -> T:
    """As :func:`on_all_ranks`, on the first process before the others: they read what it wrote.

    For work that leaves files in a cache: on one machine the others only find them.
    """
    first = on_all_ranks(command, lambda: work() if rank() == 0 else None)
    found = on_all_ranks(command, lambda: first if rank() == 0 else work())
    return found  # type: ignore[return-value]  # it is what work returned


@contextlib.contextmanager
def lost_named(message: Callable[[BaseException], str]) -> Iterator[None]:
    """Explains a failed exchange: another process has ended, and what is left to resume from.

    Args:
        message: from the backend's error or from :func:`~.gather.meeting`'s.

    Raises:
        LostProcessError: in place of that error; any other error passes.
    """
    try:
        yield
    except LostProcessError:
        raise
    except RuntimeError as error:
        if count_processes() == 1 or not _is_loss(error):
            raise
        raise LostProcessError(message(error)) from error


def waited(error: BaseException) -> str:
    """The number of the process that waited, if known, and the backend's message."""
    if isinstance(error, MixERError):
        return str(error)
    return (
        f"Process {rank()} of {count_processes()} waited for the others, and one has ended or did "
        f"not come ({_reason(error)}). Look for the first error among the other processes."
    )


def lost_before(error: BaseException | None) -> LostProcessError | None:
    """The lost process behind an error: torchrun ends the others once one has died."""
    while error is not None and not isinstance(error, LostProcessError):
        error = error.__context__
    return error


def _reason(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).split(". ")[0]


def _is_loss(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, dist.DistError) or any(w in str(error).lower() for w in _LOST_WORDS):
            return True
        error = error.__cause__
    return False


def same_everywhere(share: Share, labels: Sequence[Tensor], values: Sequence[Tensor]) -> bool:
    """Whether every process holds the same, by checksums of labels and sums of values."""
    if share.count == 1:
        return True
    sums = [float(crc32(label.cpu().numpy().tobytes())) for label in labels]
    sums += [float(value.sum(dtype=torch.float64)) for value in values]
    mine = torch.tensor([len(sums), sum(sums), *sums[:4]], dtype=torch.float64)
    return torch.equal(share.max(mine), -share.max(-mine))
