"""Workers end with the process that started them, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import os, time
from mixer_plugin.benchmarks.experiment.workers import worker_pool

with worker_pool(2) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, {busy}).result()
    time.sleep(100)
"""


def is_running(number: int) -> bool:
    """Ended processes that nobody has waited for do not count."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
@pytest.mark.parametrize("busy", [0, 100])
def test_a_worker_ends_when_its_parent_is_killed(busy: int) -> None:
    words = [sys.executable, "-c", PARENT.format(busy=busy)]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert is_running(worker)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 50
    while is_running(worker) and time.monotonic() < end:
        time.sleep(0.1)
    left = is_running(worker)
    if left:
        os.kill(worker, 9)
    assert not left
