"""Steps of a command that all processes of ``torchrun`` take together, or none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from mixer_plugin.distributed.processes import Share
from mixer_plugin.errors import MixERError

T = TypeVar("T")
WRONG_INPUT = 2


def on_all_ranks(share: Share, work: Callable[[], T]) -> T:
    """What the work returns, once it is done in every process.

    Where it fails, the first of the processes in which it does says why, on stderr, and all of
    them end; one alone raises.

    Args:
        share: The processes; each calls this with the same step.
        work: The step. It may raise between the exchanges of two processes only if it does so in
            all of them.

    Raises:
        MixERError: The work raised it, in a process that is alone.
        SystemExit: With ``WRONG_INPUT``; the work failed in one of several processes.
    """
    if share.count == 1:
        return work()
    failed = torch.zeros(share.count)
    message, result = "", None
    try:
        result = work()
    except (MixERError, OSError) as error:
        failed[share.index], message = 1, str(error)
    failed = share.sum(failed)
    if not failed.any():
        return result  # type: ignore[return-value]  # it is what work returned
    if int(failed.argmax()) == share.index:
        print(f"mixer-plugin evaluate: {message}", file=sys.stderr, flush=True)
    share.any(False)  # once one process ends, torchrun ends the others: not before that is said
    raise SystemExit(WRONG_INPUT)


def on_main_process(share: Share, work: Callable[[], T]) -> T | None:
    """A step of the first process alone; what it returns there, None in the others."""
    return on_all_ranks(share, lambda: work() if share.index == 0 else None)


def device_trouble(device: str | None) -> str | None:
    """Why a device cannot be computed on, by each of the processes that there are, or None."""
    if device is None:
        return None
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        chosen = torch.device(device)
        if here > 1 and chosen.type == "cuda":
            gpus = torch.cuda.device_count()
            if chosen.index is not None or here > gpus:
                return (
                    f"--device {device} cannot be used: each of the {here} processes takes a GPU "
                    f"of its own, and there are {gpus}; give --device cuda and no more processes "
                    "than GPUs."
                )
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        return f"--device {device} cannot be used ({reason}); leave it out for the CPU."
    return None
