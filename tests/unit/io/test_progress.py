"""How far a piece of work is: a line a minute in a log, a bar on a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest

from mixer_plugin.io.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Callable[[], float]:
    """Ten seconds pass between two looks."""
    seconds = iter(range(0, 10_000, 10))
    return lambda: float(next(seconds))


def test_a_line_a_minute_and_one_at_the_end(
    clock: Callable[[], float], capsys: pytest.CaptureFixture
) -> None:
    progress = Progress("trained", "steps", clock=clock)
    for done in range(1, 21):
        progress(done, 20, loss=0.5)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    # The first look is when it is made; every sixth later one tells.
    assert [line["steps"] for line in lines] == [6, 12, 18, 20]
    assert [line.get("seconds_left") for line in lines] == [140, 80, 20, None]
    assert lines[0] == {"event": "trained", "steps": 6, "of": 20, "seconds_left": 140, "loss": 0.5}


def test_what_was_done_before_took_no_time(
    clock: Callable[[], float], capsys: pytest.CaptureFixture
) -> None:
    progress = Progress("extracted", clock=clock)
    for done in range(900, 1000, 10):
        progress(done, 1000)
    first = json.loads(capsys.readouterr().err.splitlines()[0])
    assert (first["images"], first["seconds_left"]) == (950, 50)


def test_a_bar_has_no_escape_sequence_and_fits_its_line(
    clock: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (80, 24):
        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setenv("COLUMNS", str(width))
        progress = Progress("trained", "steps", clock=clock)
        progress(1, 4, job="saai", loss=2.25)
        progress(3, 4, job="saai", loss=2.25)
        progress.note("done: saai")
        progress(4, 4)
        shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
        assert "\033" not in shown
        assert shown.endswith("\n")
        *bars, last = shown.split("\r")[1:]
        assert max(map(len, bars)) <= width - 1
        assert "100%" in last
        assert "done: saai\n" in shown
        if width == 80:
            assert bars[0].rstrip() == " 25% [#####...............] 1 of 4 steps, saai, loss 2.25"
            assert bars[1].startswith(" 75% [###############.....] 3 of 4 steps, 5 s left, saai")


def test_a_bar_that_is_left_ends_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress("trained", "steps")
    progress(1, 4)
    progress.end()
    progress.end()
    assert sys.stderr.getvalue().count("\n") == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_quiet_says_nothing(stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    progress = Progress("trained", quiet=True)
    progress(1, 2)
    progress.note("a note")
    progress(2, 2)
    progress.end()
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.4, "7 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
