"""Progress of many jobs at once: bars on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Event = dict[str, Any]


def printer(lengths: Mapping[tuple[str, str], int | None]) -> Callable[[Event], None]:
    """Returns what takes the jobs' events and shows them.

    Args:
        lengths: (job, cell) still to train → its optimizer steps; None: its first event says.
    """
    return _bar(lengths) if sys.stderr.isatty() else _lines


def _lines(event: Event) -> None:
    if event["event"] != "step" or event["step"] % 200 == 0:
        record = {"time": time.strftime("%H:%M:%S"), **event}
        print(json.dumps(record, default=str), file=sys.stderr, flush=True)


def _bar(lengths: Mapping[tuple[str, str], int | None]) -> Callable[[Event], None]:
    try:
        from tqdm import tqdm
    except ImportError:
        return _lines
    total = sum(length or 0 for length in lengths.values())
    bar = tqdm(total=total, unit="step", dynamic_ncols=True, smoothing=0.05)
    seen: dict[tuple[str, str], int] = {}

    def show(event: Event) -> None:
        kind, key = event["event"], (event.get("job", ""), event.get("cell", ""))
        name = " ".join(key)
        if kind == "start" and lengths.get(key) is None:
            bar.total += event["steps"]
            bar.refresh()
        elif kind == "step":
            # A resumed cell starts where its checkpoint was.
            bar.update(event["step"] - seen.get(key, event["step"] - 25))
            seen[key] = event["step"]
            bar.set_postfix_str(f"{name} loss {event['loss']:.2f}")
        elif kind == "warning":
            bar.write(f"warning: {name}: {event['advice']}", file=sys.stderr)
        elif kind == "done":
            bar.write(f"done: {name} in {event['seconds']} s", file=sys.stderr)
        elif kind == "end":
            bar.close()

    return show
