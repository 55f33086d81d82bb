"""Sections of a report, cached in a folder under a hash of their inputs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixer_plugin.io.atomic_write import write_json
from mixer_plugin.io.text_file import read_text


def kept(
    folder: Path | None, name: str, mark: str, make: Callable[[], Any], say: Callable[[str], None]
) -> Any:
    """Returns a section: read if the folder has it with this mark, else made and written.

    Args:
        folder: Where finished sections are, or None.
        name: The section's; its file is named after it.
        mark: Hash of what the section depends on.
        make: Returns the section, as values that JSON has.
        say: Called with a line on how the section was obtained.
    """
    path = folder and folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
    try:
        found = json.loads(read_text(path)) if path else None
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict) and found.get("mark") == mark and "value" in found:
        say(f"{name}: kept")
        return found["value"]
    started = time.perf_counter()
    value = make()
    seconds = time.perf_counter() - started
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"mark": mark, "value": value}, indent=None)
    say(f"{name}: {seconds:.1f} s")
    return value
