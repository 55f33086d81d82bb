"""Markdown for a terminal: tables as aligned columns in as many blocks as its width asks for."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence

_BETWEEN = "  "
_ROOM = 16  # columns of a terminal that a cell may have at least


def narrow_text(markdown: str, width: int = 80) -> str:
    """Headings, paragraphs and tables of a report, in lines of at most ``width`` columns.

    Args:
        markdown: Blocks with an empty line between them: headings, paragraphs, tables.
        width: At least 60.

    Returns:
        The same for a terminal. A table that is too wide is cut into blocks that repeat its first
        columns; a cell that is too wide goes on in the next line.
    """
    blocks = [block for block in markdown.strip("\n").split("\n\n") if block.strip("\n")]
    return "\n\n".join(_narrowed(block.strip("\n"), width) for block in blocks) + "\n"


def _narrowed(block: str, width: int) -> str:
    lines = block.split("\n")
    rows = [
        [cell.replace("\\|", "|") for cell in line[2:-2].split(" | ")]
        for line in lines
        if line.startswith("| ")
    ]
    if len(rows) == len(lines) and len({len(row) for row in rows}) == 1:
        head, rule, *body = rows
        words = sum(1 for _ in itertools.takewhile(lambda cell: cell == "---", rule))
        return narrow_table(head, body, 1 if words == len(head) else max(words, 1), width=width)
    return "\n".join(_filled(line.lstrip("# "), width) for line in lines)


def narrow_table(
    head: Sequence[str], body: Sequence[Sequence[str]], labels: int = 1, *, width: int = 80
) -> str:
    """A table as aligned columns, in as many blocks as it takes.

    Args:
        head: Names of the columns. Neighbours whose names differ in the last word alone, such as
            R1 and mAP of one setting, stay in one block if they fit.
        body: The rows.
        labels: The first columns, which are words and repeated in each block; others are numbers.
        width: Columns at most.
    """
    rows = [list(map(str, row)) for row in (head, *body)]
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    most = (width - _ROOM) // labels - len(_BETWEEN)
    sizes[:labels] = [min(size, most) for size in sizes[:labels]]
    room = width - sum(size + len(_BETWEEN) for size in sizes[:labels]) + len(_BETWEEN)
    wide = [min(size, room - len(_BETWEEN)) + len(_BETWEEN) for size in sizes]
    blocks: list[list[int]] = [[]]
    for group in _groups(head, labels):
        fits = sum(wide[at] for at in group) <= room
        for columns in [group] if fits else [[at] for at in group]:
            used = sum(wide[at] for at in (*blocks[-1], *columns))
            if used > room and blocks[-1]:
                blocks.append([])
            blocks[-1] += columns
    shown = []
    for block in blocks:
        columns = [*range(labels), *block]
        lines = [
            line
            for row in rows
            for line in _lines([row[at] for at in columns], labels, [
                sizes[at] if at < labels else wide[at] - len(_BETWEEN) for at in columns
            ])
        ]  # fmt: skip
        shown.append("\n".join(lines))
    return "\n\n".join(shown)


def _groups(head: Sequence[str], labels: int) -> list[list[int]]:
    columns = range(labels, len(head))
    named = itertools.groupby(columns, lambda at: head[at].rpartition(" ")[0] or at)
    return [list(group) for _, group in named]


def _lines(cells: list[str], labels: int, sizes: list[int]) -> list[str]:
    """The lines of a row: words to the left, numbers to the right; long cells go on below."""
    parts = [textwrap.wrap(cell, size) or [""] for cell, size in zip(cells, sizes, strict=True)]
    lines = []
    for row in itertools.zip_longest(*parts, fillvalue=""):
        padded = [
            part.ljust(size) if at < labels or len(parts[at]) > 1 else part.rjust(size)
            for at, (part, size) in enumerate(zip(row, sizes, strict=True))
        ]
        lines.append(_BETWEEN.join(padded).rstrip())
    return lines


def _filled(line: str, width: int) -> str:
    return textwrap.fill(line, width, break_on_hyphens=False) if len(line) > width else line
