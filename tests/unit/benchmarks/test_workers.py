"""Workers end with the process that started them, however it ends; what is told of their work."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mixer_plugin.benchmarks.experiment import workers
from mixer_plugin.io.progress import Progress

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


LENGTHS: dict[tuple[str, str], int | None] = {("a", "base"): 100, ("a", "f"): None}


def told(events: Iterable[dict[str, Any]], *, quiet: bool = False) -> None:
    show = workers._printer(LENGTHS, quiet)
    for event in events:
        show(event)
    show({"event": "end"})


def steps(cell: str, first: int, last: int) -> list[dict[str, Any]]:
    where = {"job": "a", "cell": cell, "every": 25, "loss": 1.5}
    return [{"event": "step", **where, "step": step} for step in range(first, last + 1, 25)]


EVENTS = [
    {"event": "data", "job": "a"},
    {"event": "start", "job": "a", "cell": "base", "steps": 100},
    *steps("base", 50, 100),  # its checkpoint had 25
    {"event": "done", "job": "a", "cell": "base", "seconds": 3.0},
    {"event": "start", "job": "a", "cell": "f", "steps": 50},
    *steps("f", 25, 50),
]


@pytest.fixture
def _forty_seconds_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10_000, 40))
    clocked = functools.partial(Progress, clock=lambda: float(next(seconds)))
    monkeypatch.setattr(workers, "Progress", clocked)


@pytest.mark.usefixtures("_forty_seconds_a_look")
def test_a_log_has_each_event_and_steps_every_minute(capsys: pytest.CaptureFixture) -> None:
    told(EVENTS)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [each["event"] for each in lines if each["event"] != "trained"] == [
        *("data", "start", "done", "start", "end"),
    ]
    first, second, last = (each for each in lines if each["event"] == "trained")
    # 75 of the first cell are left; the second may be as long as the first, until it says.
    assert (first["steps"], first["of"], first["seconds_left"]) == (50, 175, 200)
    assert (second["steps"], second["of"]) == (100, 125)
    assert (last["steps"], last["of"]) == (125, 125)
    assert last["loss"] == 1.5


@pytest.mark.usefixtures("_forty_seconds_a_look")
def test_a_terminal_has_one_bar_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    told(EVENTS)
    text = terminal.getvalue()
    assert "done: a base in 3.0 s\n" in text
    assert " 50 of 175 steps, 3 min 20 s left, a, base" in text
    assert "100% [####################] 125 of 125 steps" in text
    assert "{" not in text
    told(EVENTS[:4])  # ends early
    assert terminal.getvalue().endswith("\n")


def test_quiet_trainings_say_nothing(capsys: pytest.CaptureFixture) -> None:
    told(EVENTS, quiet=True)
    assert capsys.readouterr().err == ""
