"""What a command prints: its result on stdout, progress and notes on stderr."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from typing import Any

from mixer_plugin.io.progress import Progress

_NARROWEST = 60


def add_output_arguments(
    command: argparse.ArgumentParser, *, json: bool = False, quiet: bool = False
) -> None:
    """Adds ``--json`` and ``--quiet``, for :func:`show`, :func:`note` and :func:`progress`."""
    if json:
        text = "print the result as one JSON document"
        command.add_argument("--json", action="store_true", help=text)
    if quiet:
        text = "no progress and no notes: the result, warnings and errors"
        command.add_argument("--quiet", action="store_true", help=text)


def show(options: argparse.Namespace, text: str, document: Any) -> None:
    """Prints the result: for people, or with ``--json`` for programs.

    Args:
        options: Of the command.
        text: For people; empty: nothing.
        document: Plain JSON values; NaN becomes null.
    """
    if options.json:
        from mixer_plugin.evaluation.tables import to_json

        text = to_json(document)
    if text:
        print(text.removesuffix("\n"), flush=True)


def for_people(markdown: str) -> str:
    """Markdown, or on a terminal the same in lines that fit it."""
    if not sys.stdout.isatty():
        return markdown
    from mixer_plugin.evaluation.narrow import narrow_text

    return narrow_text(markdown, columns())


def fitted(line: str, indent: int) -> str:
    """A line, or on a terminal as many as fit it, the later ones indented."""
    if not sys.stdout.isatty():
        return line
    later = " " * indent
    width = columns() - indent
    found = textwrap.wrap(line[indent:], width, break_long_words=False, break_on_hyphens=False)
    return line[:indent] + f"\n{later}".join(found)


def columns() -> int:
    """How wide the terminal is; 80 where there is none, and at least 60."""
    return max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST)


def note(options: argparse.Namespace, text: str) -> None:
    """Says on stderr what is not the result; nothing with ``--quiet``."""
    if not options.quiet:
        print(text, file=sys.stderr, flush=True)


def progress(options: argparse.Namespace, event: str, unit: str = "images") -> Progress:
    """What says how far the work is; nothing with ``--quiet``."""
    return Progress(event, unit, quiet=options.quiet)
