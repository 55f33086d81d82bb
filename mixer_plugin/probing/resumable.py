"""Finished parts of a report: kept in a folder, and used again where they are of the same."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixer_plugin.io.atomic_write import atomic_write

Say = Callable[[str], None]


def silent(line: str) -> None:
    """Says nothing."""


def to_stderr(line: str) -> None:
    """Says it where no program reads the report."""
    print(line, file=sys.stderr, flush=True)


def kept(folder: Path | None, name: str, mark: str, make: Callable[[], Any], say: Say) -> Any:
    """A part of a report: read if it was finished, else made and written.

    Args:
        folder: Where finished parts are, or None.
        name: The part's; of its file, too.
        mark: What it depends on. A part of another mark is made anew.
        make: Makes it, of plain values as JSON has them.
        say: Is told of it.
    """
    if folder is None:
        value, how = _timed(make)
    else:
        path = folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
        found = _read(path)
        if found is not None and found.get("mark") == mark:
            say(f"{name}: kept")
            return found["value"]
        value, how = _timed(make)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write((json.dumps({"mark": mark, "value": value}) + "\n").encode())
    say(f"{name}: {how}")
    return value


def mark_of(tensors: Mapping[str, Tensor | None], **plain: Any) -> str:
    """SHA-256 of tensors and plain values."""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
    for name, value in sorted(tensors.items()):
        if value is None:
            continue
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "value" in found else None


def _timed(make: Callable[[], Any]) -> tuple[Any, str]:
    started = time.perf_counter()
    value = make()
    return value, f"{time.perf_counter() - started:.1f} s"
