"""Output of ``mixer-plugin evaluate``: tables and the sections below them."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mixer_plugin.evaluation import per_query
from mixer_plugin.evaluation.audit.audit import Audit
from mixer_plugin.evaluation.narrow import narrow_text
from mixer_plugin.evaluation.protocols import Protocol
from mixer_plugin.evaluation.report.content import features_page
from mixer_plugin.evaluation.report.page import can_write, write_page
from mixer_plugin.evaluation.results import Results
from mixer_plugin.evaluation.terminal import to_text
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.atomic_write import write_text

FORMS: dict[str, Callable[[Results], str]] = {
    "txt": to_text,
    "md": Results.to_markdown,
    "csv": Results.to_csv,
    "tex": Results.to_latex,
    "json": Results.to_json,
}


@dataclass(frozen=True)
class Section:
    """A report section below a table.

    Attributes:
        name: Its heading, and the name of its files.
        markdown: The section for people.
        json: The same for programs.
    """

    name: str
    markdown: str
    json: str


@dataclass(frozen=True, kw_only=True)
class OutputTarget:
    """The destination of the results of one input.

    Attributes:
        name: The input, as it was given.
        number: Its number, from 0.
        several: Whether there are others.
        form: Of what is printed, one of ``FORMS``.
        folder: For the files, or None.
        quiet: Whether nothing but the result is said.
        document: With ``--json``, what is printed at the end; ``put`` and ``add`` fill it. Else
            None, and they print.
    """

    name: str
    number: int
    several: bool
    form: str
    folder: Path | None
    quiet: bool = False
    document: dict[str, Any] | None = None

    def tell(self, text: str) -> None:
        """Prints what stands around a table; to stderr where stdout is machine-readable."""
        if self.form in ("txt", "md"):
            print(text, flush=True)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def put(self, results: Results) -> None:
        """Writes a table in all forms and prints it in one, after its contract if that is long."""
        for suffix, form in FORMS.items():
            self._write(f"evaluation.{suffix}", form(results))
        if self.folder is not None and results.first_hit:
            self._write("queries.csv", per_query.to_csv(results.per_query))
            self._write("queries.json", per_query.to_json(results.per_query))
        if self.document is not None:
            self.document.update(features=self.name, **json.loads(results.to_json()))
            return
        if self.several:
            self.tell("\n" * (self.number > 0) + f"## {self.name}\n")
        if self.form != "txt":
            self.tell(f"{results.contract}\n")
        print(self._named(FORMS[self.form](results)), end="", flush=True)
        if self.form == "txt" and not self.quiet:
            self.tell("--details: the protocol in full, R5 to R20, mINP, intervals. --out: files.")

    def put_page(
        self, features: FeatureSet, protocol: Protocol, results: Results, trials: int | None
    ) -> None:
        """Writes ``report.html`` and says where it is, where Jinja2 is installed."""
        if self.folder is not None and can_write():
            path = self.folder / "report.html"
            title = Path(self.name).stem
            page = features_page([(title, features, results)], protocol, trials=trials)
            write_page(page, path)
            if not self.quiet:
                print(f"Report: {path}", file=sys.stderr, flush=True)

    def add_audit(self, found: Audit) -> None:
        """Prints what an audit has found."""
        if self.document is not None:
            self.document["audit"] = {"ok": found.ok, **asdict(found)}
            return
        text = narrow_text(str(found)).rstrip() if self.form == "txt" else str(found)
        self.tell(f"\n{text}")

    def add(self, addition: Section) -> None:
        """Writes a section as Markdown and JSON and prints it for people."""
        self._write(f"{addition.name}.md", addition.markdown)
        self._write(f"{addition.name}.json", addition.json)
        if self.document is not None:
            self.document[addition.name] = json.loads(addition.json)
            return
        shown = addition.markdown
        if self.form == "txt":
            shown = narrow_text(addition.markdown)
        self.tell(f"\n### {addition.name.capitalize()}\n\n{shown.rstrip()}")

    def _write(self, name: str, text: str) -> None:
        if self.folder is not None:
            write_text(self.folder / name, text)

    def _named(self, text: str) -> str:
        """Adds the name of the input to a table: a comment, a column, or a field of a JSON line."""
        if not self.several or self.form in ("txt", "md"):
            return text
        if self.form == "tex":
            return f"% {self.name}\n{text}\n"
        if self.form == "json":
            return json.dumps({"features": self.name, **json.loads(text)}) + "\n"
        head, *rows = csv.reader(io.StringIO(text))
        table = [["features", *head]] * (self.number == 0) + [[self.name, *row] for row in rows]
        stream = io.StringIO()
        csv.writer(stream).writerows(table)
        return stream.getvalue()
