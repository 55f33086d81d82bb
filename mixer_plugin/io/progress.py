"""How far a long piece of work is, on stderr: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

_BETWEEN_LINES, _BETWEEN_BARS = 60.0, 0.1  # seconds
_CELLS = 20  # of a bar


def duration(seconds: float) -> str:
    """A time in the two units that say most of it: ``2 h 5 min``, ``3 min 20 s``, ``7 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def clear_line() -> str:
    """What takes the bar that stands on a terminal off it; nothing where stderr is no terminal."""
    return f"\r{' ' * (_columns() - 1)}\r" if sys.stderr.isatty() else ""


class Progress:
    """Says how much is done, and how long the rest will take, as it is called.

    A bar is drawn with carriage returns and spaces alone: no colour, no escape sequence. Elsewhere
    a line is a JSON object, so that a log can be read by a program.
    """

    def __init__(
        self,
        event: str,
        unit: str = "images",
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts the clock; without a terminal, the first line comes after a minute.

        Args:
            event: Value of ``event`` in the JSON lines, such as ``extracted``.
            unit: What is counted.
            quiet: Whether to print nothing.
            clock: Returns seconds.
        """
        self.event, self.unit, self.quiet, self._clock = event, unit, quiet, clock
        self._bar = not quiet and sys.stderr.isatty()
        self._told = -math.inf if self._bar else clock()
        self._first: tuple[float, int] | None = None
        self._open = False  # a bar that is not full stands in the last line

    def __call__(self, done: int, total: int, **about: Any) -> None:
        """Says how much is done.

        The time left is estimated from what was done since the first call: what a resumed run
        finds done does not count.

        Args:
            done: How many of ``total`` are done.
            total: How many there are in all; may change from call to call.
            **about: Further values to print, such as the loss.
        """
        now = self._clock()
        start, before = self._first = self._first or (now, done)
        pause = _BETWEEN_BARS if self._bar else _BETWEEN_LINES
        ended = done >= total
        if self.quiet or not (ended or now - self._told >= pause):
            return
        self._told = now
        left = (now - start) / (done - before) * (total - done) if done > before else None
        if ended:
            left = None
        if self._bar:
            self._draw(done, total, left, about)
            return
        line = {"event": self.event, self.unit: done, "of": total}
        line |= {} if left is None else {"seconds_left": round(left)}
        _print(json.dumps(line | about, default=str))

    def note(self, text: str) -> None:
        """Says something else, in a line of its own."""
        if self.quiet:
            return
        if self._bar:
            self._told = -math.inf  # the bar comes back at once
            text = clear_line() + text
        _print(text)

    def end(self) -> None:
        """Leaves the bar as it is, where not all was done."""
        if self._open:
            self._open = False
            _print("")

    def _draw(self, done: int, total: int, left: float | None, about: dict[str, Any]) -> None:
        share = done / total if total else 1.0
        full = int(_CELLS * share)
        parts = [f"{done:,} of {total:,} {self.unit}"]
        parts += [] if left is None else [f"{duration(left)} left"]
        parts += [_said(name, value) for name, value in about.items()]
        bar = f"{share:4.0%} [{'#' * full}{'.' * (_CELLS - full)}] {', '.join(parts)}"
        columns = _columns() - 1  # in the last one, some terminals begin a new line
        self._open = done < total
        _print(f"\r{bar[:columns]:{columns}}", end="" if self._open else "\n")


def _said(name: str, value: Any) -> str:
    return f"{name} {value:.4g}" if isinstance(value, (int, float)) else str(value)


def _columns() -> int:
    return max(shutil.get_terminal_size().columns, 2)


def _print(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
