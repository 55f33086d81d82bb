"""The page: its parts, and the HTML file that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mixer_plugin.errors import MissingExtraError
from mixer_plugin.io.atomic_write import write_text


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and what it sorts by where that is a number."""

    text: str
    value: float | None = None
    svg: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table; ``folded``: hidden until the reader asks for it."""

    cells: tuple[Cell, ...]
    folded: bool = False


@dataclass(frozen=True)
class Table:
    """A table, sorted by a click on a heading.

    Attributes:
        caption: What it shows.
        head: Headings.
        rows: Rows.
        folded: What the folded rows are called.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    folded: str = "controls"

    @property
    def hidden(self) -> int:
        """Number of folded rows."""
        return sum(row.folded for row in self.rows)


@dataclass(frozen=True)
class Figure:
    """A chart with the words below it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: Its id in the page, a word.
        title: Heading.
        words: Paragraphs.
        terms: Words and their meanings.
        legend: Class and name of each line or point of the figures.
        tables: Tables.
        figures: Figures, side by side where there is room.
    """

    name: str
    title: str
    words: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = ()
    legend: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Page:
    """Everything a page holds.

    Attributes:
        title: Heading.
        sections: In their order; the browser of ranked lists comes last.
        data: JSON that the page embeds.
    """

    title: str
    sections: Sequence[Section]
    data: Mapping[str, Any] = field(default_factory=dict)


def can_write() -> bool:
    """Whether Jinja2 is installed."""
    return find_spec("jinja2") is not None


def render(page: Page) -> str:
    """The page as one HTML file that asks for no other.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise MissingExtraError("jinja2", "demo", "Writing an HTML report") from None
    from mixer_plugin.evaluation.report.charts import sample

    folder = resources.files(__package__)
    text = {name: folder.joinpath(f"page.{name}").read_text("utf-8") for name in _PARTS}
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Within a script, "<" could end it.
    data = json.dumps(page.data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return environment.from_string(text["html"]).render(
        page=page,
        style=Markup(text["css"]),
        script=Markup(text["js"]),
        data=Markup(data),
        svg=Markup,
        sample=lambda style: Markup(sample(style)),
    )


_PARTS = ("html", "css", "js")


def write_page(page: Page, path: Path) -> None:
    """Writes the page, whole or not at all; raises as ``render``, or if the folder is missing."""
    write_text(path, render(page))
