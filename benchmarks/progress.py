"""Progress of many jobs at once: bars on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]


def printer(total_steps: int) -> Callable[[Event], None]:
    """Returns what takes the jobs' events and shows them.

    Args:
        total_steps: optimizer steps of all cells still to train.
    """
    return _bar(total_steps) if sys.stderr.isatty() else _lines


def _lines(event: Event) -> None:
    if event["event"] != "step" or event["step"] % 200 == 0:
        record = {"time": time.strftime("%H:%M:%S"), **event}
        print(json.dumps(record, default=str), file=sys.stderr, flush=True)


def _bar(total_steps: int) -> Callable[[Event], None]:
    try:
        from tqdm import tqdm
    except ImportError:
        return _lines
    bar = tqdm(total=total_steps, unit="step", dynamic_ncols=True, smoothing=0.05)
    seen: dict[tuple[str, str], int] = {}

    def show(event: Event) -> None:
        if event["event"] == "step":
            key = (event["job"], event["cell"])
            # A resumed cell starts where its checkpoint was.
            bar.update(event["step"] - seen.get(key, event["step"] - 25))
            seen[key] = event["step"]
            bar.set_postfix_str(f"{event['job']} {event['cell']} loss {event['loss']:.2f}")
        elif event["event"] == "done":
            bar.write(
                f"done: {event['job']} {event['cell']} in {event['seconds']} s", file=sys.stderr
            )
        elif event["event"] == "end":
            bar.close()

    return show
