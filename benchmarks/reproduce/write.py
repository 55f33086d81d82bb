"""Writes a table or figure of the paper: its tables and pictures in every form, and one page."""

from __future__ import annotations

import base64
import html
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from mixer_plugin.benchmarks.experiment.pictures import save_figure
from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.reproduce.artifact import Made
from mixer_plugin.evaluation.narrow import narrow_table
from mixer_plugin.evaluation.report import page
from mixer_plugin.evaluation.tables import csv_table
from mixer_plugin.io.atomic_write import write_text

_FORMATS = ("png", "svg", "pdf")
_WIDTH = 80


def write(name: str, title: str, made: Made, note: str, folder: Path) -> Path | None:
    """Writes ``NAME.md``, ``.tex``, ``.csv``, ``.json``, each picture, and ``report.html``.

    Args:
        name: of the files.
        title: of the page.
        made: what is written; its pictures are closed.
        note: said before all tables, or empty.
        folder: made if missing.

    Returns:
        The page; None without Jinja2.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.md", as_markdown(made, note))
    write_text(folder / f"{name}.tex", "\n".join(table.to_latex() for table in made.tables))
    write_text(folder / f"{name}.csv", csv_table(made.rows, end="\n"))
    write_text(folder / f"{name}.json", json.dumps(list(made.rows), indent=1) + "\n")
    figures = []
    for picture in made.pictures:
        save_figure(picture.figure, *(folder / f"{picture.name}.{kind}" for kind in _FORMATS))
        figures.append(_embedded(folder / f"{picture.name}.svg", picture.caption))
    if not page.can_write():
        return None
    page.write_page(_page(title, note, made.tables, figures), folder / "report.html")
    return folder / "report.html"


def as_markdown(made: Made, note: str = "") -> str:
    """All tables and captions, which name the pictures' files."""
    captions = [f"![{p.caption}]({p.name}.svg)\n\n{p.caption}\n" for p in made.pictures]
    tables = [table.to_markdown() for table in made.tables]
    return "\n".join([*([f"{note}\n"] if note else []), *tables, *captions])


def for_terminal(made: Made, note: str = "") -> str:
    """All tables, at most 80 columns wide."""
    shown = [in_blocks(table) for table in made.tables]
    return "\n".join([*shown, *([textwrap.fill(note, _WIDTH) + "\n"] if note else [])])


def in_blocks(table: Table) -> str:
    """A table for a terminal, at most 80 columns wide: as many blocks as it takes."""
    shown = narrow_table(["", *table.header[1:]], table.rows, width=_WIDTH)
    return "\n\n".join([table.title, shown, textwrap.fill(table.note, _WIDTH)]) + "\n"


def _page(
    title: str, note: str, tables: Sequence[Table], figures: Sequence[page.Figure]
) -> page.Page:
    made = [
        page.Table(
            table.title,
            table.header,
            tuple(
                page.Row(tuple(_cell(cell) for cell in row), row[0].startswith("paper: "))
                for row in table.rows
            ),
            "the paper's rows",
        )
        for table in tables
    ]
    words = [line for line in (note, *(table.note for table in tables)) if line]
    section = page.Section(
        name="results", title="Results", words=words, tables=made, figures=figures
    )
    return page.Page(title, [section])


def _embedded(svg: Path, caption: str) -> page.Figure:
    """As an image of its own: names inside several drawings would meet in one page."""
    content = base64.b64encode(svg.read_bytes()).decode()
    alt = html.escape(caption, quote=True)
    return page.Figure(f'<img src="data:image/svg+xml;base64,{content}" alt="{alt}">', caption)


def _cell(text: str) -> page.Cell:
    try:
        return page.Cell(text, float(text.partition(" ± ")[0]))
    except ValueError:
        return page.Cell(text)
