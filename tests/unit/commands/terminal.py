"""Runs a program on a terminal of its own."""

from __future__ import annotations

import os
import struct
import subprocess
import sys


def on_terminal(*words: str, columns: int = 80) -> tuple[int, str]:
    """Exit status, and what a terminal of so many columns received on stdout and stderr."""
    import fcntl  # not on every system
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "mixer_plugin.cli", *words]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    received = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so at the end
            break
        if not part:
            break
        received += part
    os.close(ours)
    return process.wait(), received.decode()
