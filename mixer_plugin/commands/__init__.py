"""One module per command of ``mixer-plugin``: its arguments and its work."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def advice_if_interrupted(advice: str) -> Iterator[None]:
    """Prints after Ctrl-C what was saved and how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(advice) from None


def show_progress(done: int, total: int) -> None:
    """Says on stderr how many images are written: on a terminal in place, else as JSON lines."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done} of {total} images", end=end, file=sys.stderr, flush=True)
    else:
        print(json.dumps({"event": "written", "images": done, "of": total}), file=sys.stderr)
