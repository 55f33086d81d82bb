"""Whether each process can use the device that was asked for."""

from __future__ import annotations

import os

import torch


def device_trouble(device: str | None) -> str | None:
    """Returns why some process cannot use a device, or None."""
    if device is None:
        return None
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        chosen = torch.device(device)
        if chosen.type == "cuda" and torch.cuda.device_count() == 0:
            return f"--device {device} cannot be used (no GPU here); leave it out for the CPU."
        if here > 1 and chosen.type == "cuda":
            gpus = torch.cuda.device_count()
            if chosen.index is not None or here > gpus:
                return (
                    f"--device {device} cannot be used: each of the {here} processes takes a GPU "
                    f"of its own, and there are {gpus}; give --device cuda and no more processes "
                    "than GPUs."
                )
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(0, device=chosen).cpu()  # the device "meta" holds nothing
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        return f"--device {device} cannot be used ({reason}); leave it out for the CPU."
    return None
