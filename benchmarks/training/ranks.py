"""The processes that ``torchrun`` starts: how they join, tell each other what failed, and end."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from mixer_plugin.distributed.gather import count_processes
from mixer_plugin.distributed.processes import all_processes
from mixer_plugin.errors import MixERError, MixERRuntimeError, MixERValueError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)  # of a process that waits for one that neither comes nor ends
_WRONG_INPUT, _FAILED = 2, 1
# What the backends say of a peer; most raise a plain RuntimeError.
_WORDS = ("gloo", "nccl", "connection closed", "connection reset", "timed out")


class LostProcessError(MixERRuntimeError):
    """Another process has ended, or does not come."""


def rank() -> int:
    """Number of this process among those of the default group; 0 without one."""
    return dist.get_rank() if count_processes() > 1 else 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Joins the processes that ``torchrun`` has started, if it has, and leaves them at the end.

    Args:
        device: ``cpu`` (gloo), or ``cuda``: NCCL between GPUs, one to a process, and gloo for what
            lies on the CPU, so that no exchange of a flag waits for a GPU.

    Raises:
        MixERValueError: if there is no GPU for each process, or torchrun could not restart them.
        MixERRuntimeError: if they cannot reach each other.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        yield
        return
    if device == "cuda":
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:
            raise MixERValueError(
                f"training.device is 'cuda', and {here} processes were started on a machine with "
                f"{gpus} GPUs; expected one each. Set --nproc-per-node, or training.device: cpu."
            )
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not alone and shared and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise MixERValueError(
            "torchrun --max-restarts would give restarted processes on several machines addresses "
            "of processes that are gone. Start it with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its "
            "environment and --rdzv-backend=c10d, or without --max-restarts."
        )
    try:
        store, number, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
        if alone:  # of several machines, each counts its own restarts
            store = dist.PrefixStore(f"start-{_restarts()}", store)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=store, rank=number, world_size=world, timeout=TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        raise MixERRuntimeError(
            f"{world} processes cannot join ({_reason(error)}). Start them with torchrun; several "
            "machines must reach the address that it is given, and each other."
        ) from error
    yield
    # After an error the others may be waiting: only the end of this process tells them.
    dist.destroy_process_group()


def restarted() -> bool:
    """Whether ``torchrun`` has started some of the processes anew, after one failed."""
    return all_processes().any(_restarts() > 0)


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def on_main_process(work: Callable[[], T]) -> T:
    """What the work returns in the first process, which alone does it, told to all.

    Args:
        work: not to exchange anything with other processes; its result can be pickled.

    Raises:
        SystemExit: if it fails, in all of several processes, once the first has said why.
        Exception: what the work raised, in a process that is alone.
    """
    if count_processes() == 1:
        return work()
    done = [_tried(work)] if rank() == 0 else [(None, None)]
    result, failure = done[0]
    told: list[Any] = [(result, None if failure is None else _status(failure))]
    dist.broadcast_object_list(told)
    result, status = told[0]
    if status is not None:
        _end(0, status, failure)
    return result


def on_all_ranks(work: Callable[[], T]) -> T:
    """What the work returns, once it is done in every process.

    Args:
        work: not to exchange anything with other processes.

    Raises:
        SystemExit: if it fails in one of several processes, in all of them; the first of those in
            which it did has said why.
        Exception: what the work raised, in a process that is alone.
    """
    if count_processes() == 1:
        return work()
    result, failure = _tried(work)
    told: list[int | None] = [None] * count_processes()
    dist.all_gather_object(told, None if failure is None else _status(failure))
    for number, status in enumerate(told):
        if status is not None:
            _end(number, status, failure)
    return result  # type: ignore[return-value]


def main_process_first(work: Callable[[], T]) -> T:
    """As :func:`on_all_ranks`; the first process does it alone, then the others what it has left.

    For work that leaves files in a cache: on one machine the others only find them.
    """
    if count_processes() == 1:
        return work()
    results: list[T] = []

    def begin() -> None:
        results.append(work())

    on_main_process(begin)
    return on_all_ranks(lambda: results[0] if results else work())


@contextlib.contextmanager
def lost_named(what: Callable[[BaseException], str]) -> Iterator[None]:
    """Says what a failed exchange means: another process is gone, and what is left to go on from.

    Args:
        what: the message, from the backend's error or from :func:`~.gathering.meeting`'s.

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
        raise LostProcessError(what(error)) from error


def waited(error: BaseException) -> str:
    """Which process waited, where that is known, and what its backend said."""
    if isinstance(error, MixERError):
        return str(error)
    return (
        f"Process {rank()} of {count_processes()} waited for the others, and one has ended or did "
        f"not come ({_reason(error)}). Look for the first error among the other processes."
    )


def lost_before(error: BaseException | None) -> LostProcessError | None:
    """The loss in whose course an error came: torchrun ends the others once one has died."""
    while error is not None and not isinstance(error, LostProcessError):
        error = error.__context__
    return error


def _reason(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).split(". ")[0]


def _is_loss(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, dist.DistError) or any(w in str(error).lower() for w in _WORDS):
            return True
        error = error.__cause__
    return False


def _tried(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _status(failure: Exception) -> int:
    return _WRONG_INPUT if isinstance(failure, (MixERError, OSError)) else _FAILED


def _end(number: int, status: int, failure: Exception | None) -> None:
    """Ends all processes; the one of the number says why."""
    if number == rank() and failure is not None:
        if status == _WRONG_INPUT:
            print(f"mixer-plugin table3: {failure}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(failure)
    # Once one process ends, torchrun ends the others: not before that is said.
    all_processes().any(False)
    raise SystemExit(status)
