"""One module per command of ``mixer-plugin``: its arguments and its work."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def advice_if_interrupted(advice: str) -> Iterator[None]:
    """Prints after Ctrl-C what was saved and how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(advice) from None


def timed_progress(event: str) -> Callable[[int, int], None]:
    """What says on stderr how many images are done, and how long the others will take.

    In place on a terminal; else at most 21 JSON lines.

    Args:
        event: What these lines call it.
    """
    started, first, last = time.monotonic(), -1, -1

    def tell(done: int, total: int) -> None:
        nonlocal first, last
        first = done if first < 0 else first  # what an earlier run left took no time
        passed = time.monotonic() - started
        left = passed / max(done - first, 1) * (total - done) if done > first else None
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            rest = "" if left is None or done == total else f", {_duration(left)} left"
            print(f"\r{done} of {total} images{rest}\033[K", end=end, file=sys.stderr, flush=True)
        elif done == total or 20 * done // total > last:
            last = 20 * done // total
            line = {"event": event, "images": done, "of": total}
            if left is not None and done < total:
                line["seconds_left"] = round(left)
            print(json.dumps(line), file=sys.stderr, flush=True)

    return tell


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
