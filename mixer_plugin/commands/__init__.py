"""One module per command of ``mixer-plugin``: its arguments, and what it does with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def advice_if_interrupted(advice: str) -> Iterator[None]:
    """Says after Ctrl-C what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(advice) from None
