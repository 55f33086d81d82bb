"""Python processes of a test: several that join, as ``torchrun`` starts them, or one alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def settings(**environment: str) -> dict[str, Any]:
    """Options of :mod:`subprocess`: one thread each, text, in the root of the source tree."""
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return {"env": own, "cwd": ROOT, "text": True}


def start(*words: object, **environment: str) -> subprocess.Popen[str]:
    """``python WORD…`` in a session of its own, whose output is kept."""
    command, pipe = [sys.executable, *map(str, words)], subprocess.PIPE
    options = {"stdout": pipe, "stderr": pipe, "start_new_session": True}
    return subprocess.Popen(command, **options, **settings(**environment))


def ends(
    processes: list[subprocess.Popen[str]], timeout: float = 240
) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each process, once all have ended."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]


def run(*words: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """``python WORD…`` until it ends."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=timeout, **settings())


def torchrun(*words: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """``torchrun WORD…`` until it ends."""
    launcher = ("-m", "torch.distributed.run", "--standalone")
    return run(*launcher, f"--nproc-per-node={processes}", *words)


def pair(*words: tuple[object, ...]) -> list[subprocess.Popen[str]]:
    """Processes ``python WORD…``, one for each of two tuples, as torchrun starts them.

    Nothing watches them, which torchrun would do.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start(*own, RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank, own in enumerate(words)
    ]
