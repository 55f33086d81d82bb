"""The paper's tables and figures by name: ``mixer-plugin bench NAME``."""

from __future__ import annotations

import csv
import io
import itertools
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.dry_run import dry_run
from mixer_plugin.benchmarks.experiment.pictures import save_figure
from mixer_plugin.benchmarks.experiment.tables import Table
from mixer_plugin.benchmarks.reproduce import ablations, cost, figures, mixed_tables, unseen
from mixer_plugin.benchmarks.reproduce.artifact import Artifact, Made
from mixer_plugin.benchmarks.reproduce.networks import Bench
from mixer_plugin.benchmarks.training.signals import sigterm_raises
from mixer_plugin.data.datasets.layouts import whole_layout
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.evaluation.report import page
from mixer_plugin.evaluation.tables import aligned_table
from mixer_plugin.io.atomic_write import write_json, write_text
from mixer_plugin.run_card import run_card

_EVERY: Mapping[str, Artifact] = {
    **mixed_tables.ARTIFACTS,
    **unseen.ARTIFACTS,
    **ablations.ARTIFACTS,
    **cost.ARTIFACTS,
    **figures.ARTIFACTS,
}
NAMES = (
    "table1", "table2a", "table2b", "table3", "table4", "table5", "b1", "b2", "b3", "b4", "b5",
    "figure4", "figure5", "figure-b1", "figure-b2",
)  # fmt: skip
_FORMATS = ("png", "svg", "pdf")
_WIDTH = 80


def artifact_of(name: str) -> Artifact:
    """A table or figure; raises :class:`MixERValueError` for an unknown name."""
    check_name("name", name, NAMES)
    return _EVERY[name]


def run_bench(name: str, bench: Bench) -> str:
    """Trains what is missing, makes a table or figure, and writes it below ``bench.out/NAME``.

    Files: Markdown, CSV, LaTeX, JSON; pictures as PNG, SVG and PDF with their captions; one HTML
    page; a run card.

    Args:
        name: one of ``NAMES``.
        bench: how networks are trained, and where. Those that another name has trained there are
            used as they are.

    Returns:
        What a terminal shows.

    Raises:
        MixERError: for an unknown name, data that are missing or do not fit, or a failed training.
        KeyboardInterrupt: running trainings save first; the same command goes on from there.
    """
    artifact = artifact_of(name)
    networks = artifact.networks(bench)
    if not bench.mini:
        for dataset in artifact.datasets:
            bench.root(dataset)
    with sigterm_raises():
        bench.train(networks)
    made = artifact.make(bench)
    folder = bench.out / name
    folder.mkdir(parents=True, exist_ok=True)
    return _write(name, artifact, made, bench, folder)


def dry_run_bench(name: str, bench: Bench) -> str:
    """Checks what a name needs and says what its trainings take; writes nothing.

    Raises:
        MixERError: as :func:`run_bench`.
    """
    artifact = artifact_of(name)
    if not bench.mini:
        for dataset in artifact.datasets:
            bench.root(dataset)
    parts = []
    for dataset, jobs in bench.jobs(artifact.networks(bench)).items():
        for entry in dict.fromkeys(job.network.name for job in jobs):
            own = [job for job in jobs if job.network.name == entry]
            parts.append(dry_run(bench.config(dataset, entry), bench.folder(dataset), own))
    if not parts:
        return f"{artifact.title}: nothing is trained for it."
    return "\n\n".join(parts)


def _write(name: str, artifact: Artifact, made: Made, bench: Bench, folder: Path) -> str:
    note = (
        "Scale mini: small networks, trained for seconds on generated persons. It shows that the "
        "table comes out; the level of no row means anything.\n"
        if bench.mini
        else ""
    )
    captions = "".join(f"![{p.caption}]({p.name}.svg)\n\n{p.caption}\n\n" for p in made.pictures)
    tables = "\n".join(table.to_markdown() for table in made.tables)
    write_text(folder / f"{name}.md", "\n".join(filter(None, (note, tables, captions))))
    write_text(folder / f"{name}.tex", "\n".join(table.to_latex() for table in made.tables))
    write_text(folder / f"{name}.csv", _csv(made.rows))
    write_text(folder / f"{name}.json", json.dumps(list(made.rows), indent=1) + "\n")
    svgs = []
    for picture in made.pictures:
        save_figure(picture.figure, *(folder / f"{picture.name}.{kind}" for kind in _FORMATS))
        svgs.append(((folder / f"{picture.name}.svg").read_text(encoding="utf-8"), picture.caption))
    networks = sorted(map(str, artifact.networks(bench)))
    card = run_card({"name": name, "scale": bench.scale, "networks": networks})
    write_json(folder / "run_card.json", card)
    report = ""
    if page.can_write():
        page.write_page(_page(artifact.title, note, made.tables, svgs), folder / "report.html")
        report = f"Report: {folder / 'report.html'}\n"
    shown = "\n".join(in_blocks(table) for table in made.tables)
    return f"{shown}\n{textwrap.fill(note, _WIDTH)}\n{report}Files: {folder}"


def in_blocks(table: Table) -> str:
    """A table for a terminal, at most 80 columns wide: as many blocks as it takes."""
    left = _WIDTH - max(len(row[0]) for row in table.rows)
    blocks: list[list[int]] = []
    used = left + 1
    # R1 and mAP of one setting stay together.
    for _, pair in itertools.groupby(
        range(1, len(table.header)), lambda at: table.header[at].rpartition(" ")[0] or at
    ):
        columns = list(pair)
        every = (table.header, *table.rows)
        width = sum(2 + max(len(row[at]) for row in every) for at in columns)
        if used + width > left:
            blocks.append([])
            used = 0
        blocks[-1] += columns
        used += width
    shown = [
        aligned_table(
            ["", *(table.header[at] for at in block)],
            [[row[0], *(row[at] for at in block)] for row in table.rows],
        )
        for block in blocks
    ]
    return "\n\n".join([table.title, *shown, textwrap.fill(table.note, _WIDTH)]) + "\n"


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _page(
    title: str, note: str, tables: Sequence[Table], svgs: Sequence[tuple[str, str]]
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
    figures = [page.Figure(svg, caption) for svg, caption in svgs]
    words = [line for line in (note, *(table.note for table in tables)) if line]
    section = page.Section(
        name="results", title="Results", words=words, tables=made, figures=figures
    )
    return page.Page(title, [section])


def _cell(text: str) -> page.Cell:
    try:
        return page.Cell(text, float(text.partition(" ± ")[0]))
    except ValueError:
        return page.Cell(text)


def find_roots(data: Sequence[str]) -> dict[str, str]:
    """Data set → folder, of folders given or of those right inside them.

    Raises:
        MixERValueError: for a folder that has no data set's layout, nor has one inside.
    """
    found: dict[str, str] = {}
    for given in data:
        root = Path(given)
        inside = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        own = whole_layout(root)
        here = {own: str(root)} if own else {}
        here = here or {layout: str(p) for p in inside if (layout := whole_layout(p))}
        if not here:
            raise MixERValueError(
                f"{root} is no data set in its released layout, and no folder in it is one. "
                "`mixer-plugin doctor ROOT` says what is missing."
            )
        found |= here
    return found
