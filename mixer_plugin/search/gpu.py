"""Chooses the GPU for FAISS and tests it before use."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from typing import Any

from mixer_plugin.errors import MissingExtraError, MixERRuntimeError, MixERValueError

# One vector, added and found again.
_PROBE = """
import sys
import faiss, numpy
one = numpy.ones((1, 4), numpy.float32)
index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), int(sys.argv[1]), faiss.IndexFlatIP(4))
index.add(one)
score, place = index.search(one, 1)
sys.exit(None if (score[0, 0], place[0, 0]) == (4, 0) else "a search gave a wrong score")
"""
_SECONDS = 120


def import_faiss() -> Any:
    """The module, or ``MissingExtraError``."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss", "faiss", "MixedModalIndex") from error
    return faiss


@dataclass(frozen=True)
class Gpu:
    """A GPU that works.

    Attributes:
        number: Its number.
        resources: FAISS' ``StandardGpuResources``.
        required: Whether the caller asked for it, so that the CPU must not stand in.
    """

    number: int
    resources: Any
    required: bool


def choose_gpu(device: str) -> Gpu | None:
    """The GPU of a device name; None is the CPU.

    Args:
        device: ``cpu``; ``cuda`` or ``cuda:N``; ``auto``: the first GPU if there is one and it
            works, with a warning if there is one that does not.

    Raises:
        MissingExtraError: FAISS is not installed.
        MixERValueError: Unknown name.
        MixERRuntimeError: A GPU is asked for and does not work.
    """
    faiss = import_faiss()
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise MixERValueError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}.")
    if device == "cpu":
        return None
    with_gpu = hasattr(faiss, "StandardGpuResources")
    count = faiss.get_num_gpus() if with_gpu else 0
    if device == "auto" and count == 0:
        return None
    number = int(device.partition(":")[2] or 0)
    if not with_gpu:
        reason = "this is faiss-cpu; install faiss-gpu"
    elif number >= count:
        reason = f"FAISS sees {count} GPUs"
    else:
        reason = probe(number)
    if not reason:
        return Gpu(number, faiss.StandardGpuResources(), required=device != "auto")
    if device != "auto":
        raise MixERRuntimeError(
            f"FAISS cannot use device {device!r}: {reason}. Choose device='cpu' or 'auto'."
        )
    warnings.warn(
        f"FAISS cannot use the GPU ({reason}); the index stays on the CPU. "
        "device='cpu' leaves this warning out.",
        stacklevel=4,
    )
    return None


@functools.cache
def probe(number: int) -> str:
    """Why a GPU does not work with FAISS; empty if it does.

    Runs in a process of its own: FAISS ends the process where its binary has no code for a GPU
    (github.com/facebookresearch/faiss/issues/1044), and no ``except`` could catch that.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE, str(number)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if result.returncode == 0:
        return ""
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"the trial ended with status {result.returncode}"
