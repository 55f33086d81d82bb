"""The paper's tables and figures by name: ``mixer-plugin bench NAME``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixer_plugin.benchmarks.dry_run import dry_run
from mixer_plugin.benchmarks.reproduce import ablations, cost, figures, mixed_tables, unseen
from mixer_plugin.benchmarks.reproduce.artifact import Artifact
from mixer_plugin.benchmarks.reproduce.networks import DATASETS, Bench
from mixer_plugin.benchmarks.reproduce.write import as_markdown, for_terminal, write
from mixer_plugin.benchmarks.training.signals import sigterm_raises
from mixer_plugin.data.datasets.layouts import whole_layout
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.io.atomic_write import write_json
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


_MINI = (
    "Scale mini: small networks, trained for seconds on generated persons. It shows that the table "
    "comes out; the levels of its rows mean nothing."
)


@dataclass(frozen=True)
class Done:
    """A finished table or figure.

    Attributes:
        terminal: its tables, at most 80 columns wide.
        markdown: its tables and captions.
        page: the HTML page; None without Jinja2.
        folder: of all files.
    """

    terminal: str
    markdown: str
    page: Path | None
    folder: Path


def artifact_of(name: str) -> Artifact:
    """A table or figure; raises :class:`MixERValueError` for an unknown name."""
    check_name("name", name, NAMES)
    return _EVERY[name]


def run_bench(name: str, bench: Bench) -> Done:
    """Trains what is missing, makes a table or figure, and writes it below ``bench.out/NAME``.

    Files: Markdown, CSV, LaTeX, JSON; pictures as PNG, SVG and PDF with their captions; one HTML
    page; a run card.

    Args:
        name: one of ``NAMES``.
        bench: how networks are trained, and where. Those that another name has trained there are
            used as they are.

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
    made, folder = artifact.make(bench), bench.out / name
    note = _MINI if bench.mini else ""
    page = write(name, artifact.title, made, note, folder)
    used = sorted(str(network) for network in networks)
    card = run_card({"name": name, "scale": bench.scale, "networks": used})
    write_json(folder / "run_card.json", card)
    return Done(for_terminal(made, note), as_markdown(made, note), page, folder)


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
        first = bench.config(dataset, jobs[0].network.name)
        config = dataclasses.replace(first, name=f"{name}, {DATASETS[dataset]}")
        parts.append(dry_run(config, bench.folder(dataset), jobs))
    if not parts:
        return f"{artifact.title}: nothing is trained for it."
    return "\n\n".join(parts)


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
