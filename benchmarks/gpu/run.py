"""Runs parts one after the other, each within its time, and keeps what they found after each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import mixer_plugin
from mixer_plugin.benchmarks.gpu.parts import Part

ROOT = Path(mixer_plugin.__file__).resolve().parents[1]
DONE, FAILED, LATE, LEFT_OUT, STOPPED, WAITING = (
    *("done", "failed", "out of time", "left out"),
    *("interrupted", "not run"),
)
_TAIL = 3000  # characters of output that are kept
_NAMES = {"PIL": "Pillow"}  # of packages that are imported by another one

Outcome = dict[str, Any]


def run_parts(
    parts: Sequence[Part],
    folder: Path,
    *,
    minutes: float,
    device: str,
    quick: bool,
    keep: Callable[[Mapping[str, Outcome]], None],
) -> dict[str, Outcome]:
    """Runs parts in their order; what a part leaves of its time, later ones may use.

    Args:
        parts: what to run.
        folder: where each part's figures (JSON) and output are written; must be there.
        minutes: of all parts; each gets its share of them.
        device: ``cpu`` or ``cuda``.
        quick: in miniature.
        keep: receives all outcomes before the first part and after every one.

    Returns:
        The outcomes by name of the part: ``state`` (one of the constants above), ``reason`` (a
        sentence, where it is not done), ``command``, ``limit`` and ``seconds``, ``found`` (what it
        wrote, all or up to its end) and ``tail`` (of its output).

    Raises:
        KeyboardInterrupt: on Ctrl-C; the outcomes are kept first.
    """
    folder = folder.resolve()  # the parts run in the source tree, wherever this process does
    shares = list(accumulate(part.seconds for part in parts))
    started = time.monotonic()
    outcomes: dict[str, Outcome] = {part.name: {"state": WAITING} for part in parts}
    keep(outcomes)
    for part, share in zip(parts, shares, strict=True):
        end = started + minutes * 60 * share / shares[-1]
        own = outcomes[part.name]
        own["state"] = STOPPED  # unless it ends
        try:
            run_part(part, folder, end - time.monotonic(), device, quick, own)
        finally:
            keep(outcomes)
            print(f"{part.name}: {own['state']}", flush=True)
    return outcomes


def run_part(
    part: Part, folder: Path, seconds: float, device: str, quick: bool, outcome: Outcome
) -> None:
    """Runs a part for at most so many seconds, and ends all its processes then.

    Args:
        part: what to run.
        folder: for its figures and output.
        seconds: its limit.
        device: ``cpu`` or ``cuda``.
        quick: in miniature.
        outcome: filled in, also when the wait is interrupted; see :func:`run_parts`.
    """
    if missing := lacking(part):
        outcome |= {"state": LEFT_OUT, "reason": missing}
        return
    seconds = max(seconds, 0.0)
    out, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    out.unlink(missing_ok=True)
    command = part.command(quick, device, out)
    outcome |= {"command": " ".join(command), "limit": round(seconds, 1)}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            rc: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            rc = None
        except BaseException:
            outcome["reason"] = f"Interrupted after {time.monotonic() - started:.0f} s."
            raise
        finally:
            end(process)
            outcome["seconds"] = round(time.monotonic() - started, 1)
            outcome["found"] = json.loads(out.read_text("utf-8")) if out.is_file() else None
            outcome["tail"] = log.read_text("utf-8", errors="replace")[-_TAIL:]
    if rc is None:
        reason = f"Ended after {seconds:.0f} s, its share of the time."
        outcome |= {"state": LATE, "reason": reason}
    elif rc or outcome["found"] is None:
        outcome |= {"state": FAILED, "reason": _why(rc, outcome["tail"])}
    else:
        outcome["state"] = DONE


def _why(rc: int, output: str) -> str:
    """Why a part failed: its status, and the last line that it wrote."""
    if rc == 0:
        return "It wrote no figures."
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    how = f"Signal {-rc}" if rc < 0 else f"Status {rc}"
    return f"{how}: {lines[-1]}" if lines else f"{how}, without a word."


def lacking(part: Part) -> str | None:
    """Why a part is left out, in a sentence; None: it is not."""
    missing = [name for name in part.needs if find_spec(name) is None]
    if missing:
        return f"Not installed: {', '.join(_NAMES.get(name, name) for name in missing)}."
    if part.folder is not None and not (ROOT / part.folder).is_dir():
        return f"It needs {part.folder}, which a source tree has."
    return None


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, and those that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
