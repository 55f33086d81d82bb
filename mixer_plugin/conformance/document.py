"""What ``check`` and ``inspect`` have found, for a program."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def json_document(wanted: bool) -> Iterator[dict[str, Any]]:
    """A dictionary that the block fills, printed on stdout as JSON after it.

    What the block prints for people, and what a network's own code prints, goes to stderr then.

    Args:
        wanted: Otherwise stdout is as it was, and the dictionary is dropped.
    """
    found: dict[str, Any] = {}
    if not wanted:
        yield found
        return
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield found
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
    print(json.dumps(found, indent=2), flush=True)
