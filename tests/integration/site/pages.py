"""What tests read off the pages of the documentation."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mixer_plugin.cli import main

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(path, anchor) of each link and picture that leads to no other site."""
    for link in re.findall(r"\]\((?!https?://)([^)\s]*)\)", _FENCE.sub("", read(page))):
        path, _, anchor = link.partition("#")
        yield path, anchor


def anchors(page: Path) -> set[str]:
    """Of the headings, as the hosts of repositories make them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", read(page)), re.MULTILINE)
    texts = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).strip().lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


_STEP = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n)?^```(?P<language>python|bash|text)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
# What a page tells a reader to do outside of it.
_ELSEWHERE = ("python -m pip ", "make ")


def run(page: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Runs a page in the working folder, from top to bottom, as its reader would.

    Python goes on in one namespace, or is written to the file that a comment above it names. A
    command is run, and a block of text behind either is what it must have printed.

    Returns:
        The namespace at the end.
    """
    values: dict[str, Any] = {"__name__": page.stem}
    capsys.readouterr()
    for step in _STEP.finditer(read(page)):
        text = step["text"]
        if step["file"]:
            Path(step["file"]).write_text(text, encoding="utf-8")
        elif step["language"] == "python":
            exec(compile(text, page.name, "exec"), values)
        elif step["language"] == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                _command(shlex.split(line, comments=True))
        else:
            printed = capsys.readouterr().out
            assert text in printed
    return values


def _command(words: list[str]) -> None:
    line = " ".join(words)
    if not words or line.startswith(_ELSEWHERE):
        return
    if words[0] == "mixer-plugin":
        assert main(words[1:]) == 0, line
        return
    assert words[0] == "python", line
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, *words[1:]], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    print(result.stdout, end="")
