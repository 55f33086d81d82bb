"""A command's streams and exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from mixer_plugin.errors import MixERError
from mixer_plugin.io.progress import clear_line

WRONG_INPUT, INTERRUPTED, NO_READER = 2, 130, 141


def run_command(name: str, work: Callable[[], int | None]) -> int:
    """Runs a command on a console of any encoding; returns its exit status.

    What the console cannot show is replaced. An error of the package, of a file or of memory is one
    line on stderr and status 2; Ctrl-C is status 130; a reader of stdout that has gone, such as
    ``head``, status 141.

    Args:
        name: begins the line of an error.
        work: the command; None is status 0.
    """
    for stream, replacing in (("stdout", "replace"), ("stderr", "backslashreplace")):
        if getattr(sys, stream) is None:  # closed: `>&-`
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors=replacing)
    try:
        try:
            status = work() or 0
        finally:
            trouble = _flush()
        if trouble is not None:
            raise trouble
    except (MixERError, OSError, MemoryError) as error:
        # Where stdout still takes an empty line, the pipe that broke is another one.
        if isinstance(error, BrokenPipeError) and (trouble or _flush("\n")) is not None:
            return NO_READER
        _say(f"{clear_line()}{name}: {str(error) or type(error).__name__}")
        return WRONG_INPUT
    except KeyboardInterrupt as stop:
        _say(f"\nInterrupted. {stop}".rstrip())
        return INTERRUPTED
    return status


def _flush(text: str = "") -> OSError | None:
    """Writes what stdout holds back; if that fails, the process does not try again at its end."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)
