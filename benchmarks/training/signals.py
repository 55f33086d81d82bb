"""SIGTERM and Ctrl-C: training saves first and ends with the right exit status."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number

    def __reduce__(self) -> Any:
        """Pickles with both arguments."""
        return type(self), (self.number, str(self))

    @property
    def status(self) -> int:
        """What a shell expects: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


@contextlib.contextmanager
def noted_signals(patient: bool = False) -> Iterator[Callable[[], int | None]]:
    """Within the block a first SIGTERM or Ctrl-C is noted; a second one ends the process at once.

    A signal that is ignored stays ignored. Outside the main thread, which alone may handle signals,
    nothing is noted.

    Args:
        patient: later signals are ignored, also after the block: the same one may come to a process
            from a scheduler and from ``torchrun``, which ends at last what does not end by itself.

    Yields:
        A function that returns the number of the signal that came, or None.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came and not patient:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        came.append(number)

    with _handled_by(note, _NUMBERS):
        try:
            yield lambda: came[0] if came else None
        finally:
            if patient and came:
                for number in _NUMBERS:
                    signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within the block SIGTERM raises :class:`Interrupted`, as Ctrl-C raises KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted(number, "SIGTERM")

    with _handled_by(stop, (signal.SIGTERM,)):
        yield


@contextlib.contextmanager
def _handled_by(handler: Any, numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            if signal.getsignal(number) != signal.SIG_IGN:  # ignored since, for good
                signal.signal(number, signal.SIG_DFL if old is None else old)
