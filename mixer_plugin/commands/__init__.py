"""One module or folder per command of ``mixer-plugin``: its arguments and its work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def advice_if_interrupted(advice: str) -> Iterator[None]:
    """Prints after Ctrl-C what was saved and how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(advice) from None
