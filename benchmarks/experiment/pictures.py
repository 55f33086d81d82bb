"""Two pictures of a run: a forest plot of the paired differences, and one query's top ten."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixer_plugin.benchmarks.experiment.comparisons import (
    CONTROLS,
    GAINS,
    Measured,
    difference,
    settings_of,
)
from mixer_plugin.errors import MissingExtraError
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.io.image_file import read_image
from mixer_plugin.matching import scores

_COLOURS = ("#0b6e4f", "#1f4e9c", "#8a1c7c")
_RIGHT, _WRONG, _QUERY = "#0b8a3e", "#c1121f", "#333333"


def pyplot() -> Any:
    """Matplotlib without a display; raises :class:`MissingExtraError` where it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtraError("matplotlib", "bench", "Drawing the pictures") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def forest_plot(measured: Measured, baseline: str, path: Path) -> None:
    """One panel per setting: each difference's seeds as dots, their mean and spread as a bar."""
    plt = pyplot()
    settings = settings_of(measured)
    comparisons = [
        c
        for c in (*GAINS, *CONTROLS)
        if any(difference(measured, c, s) is not None for s in settings)
    ]
    figure, panels = plt.subplots(
        1,
        len(settings),
        figsize=(2.6 * len(settings) + 3.2, 0.42 * len(comparisons) + 1.6),
        sharey=True,
        squeeze=False,
    )
    for panel, setting in zip(panels[0], settings, strict=True):
        panel.axvline(0, color="#888888", linewidth=0.8)
        for y, comparison in enumerate(comparisons):
            found = difference(measured, comparison, setting)
            if found is None:
                continue
            if comparison.left.rule == "mixer-shuffled":
                # Its size would squeeze all others; the number says it.
                panel.annotate(
                    f"{found.mean:+.1f}",
                    (0, y),
                    xytext=(4, 0),
                    textcoords="offset points",
                    color="#777777",
                    fontsize=8,
                    va="center",
                )
                continue
            colour = _COLOURS[y % 3] if comparison in GAINS else "#777777"
            values = list(found.values.values())
            panel.plot(values, [y] * len(values), "o", color=colour, markersize=3, alpha=0.5)
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            panel.errorbar(
                found.mean, y, xerr=spread, fmt="D", color=colour, markersize=5, capsize=3
            )
        panel.set_title(setting)
        panel.set_xlabel("mAP, points")
        panel.grid(axis="x", linewidth=0.3)
    panels[0, 0].set_yticks(range(len(comparisons)), [c.label for c in comparisons])
    panels[0, 0].invert_yaxis()
    title = (
        f"{baseline}: paired differences; dots are seeds, bars mean ± standard deviation "
        "(grey: controls; shuffled as a number)"
    )
    figure.suptitle(textwrap.fill(title, int(12 * figure.get_figwidth())), fontsize=10)
    save_figure(figure, path)


def choose_query(
    baseline: FeatureSet, mixer: FeatureSet, queries: np.ndarray, gallery: np.ndarray
) -> int:
    """The query whose top ten change most, counted in right items, ties to the first."""
    hits = []
    for features, rule in ((baseline, "erased"), (mixer, "mixer")):
        top = ranked(features, queries, gallery, rule)
        hits.append((features.ids.numpy()[top] == features.ids.numpy()[queries][:, None]).sum(1))
    return int(queries[int(np.argmax(np.abs(hits[1] - hits[0])))])


def ranked(
    features: FeatureSet, queries: Sequence[int] | np.ndarray, gallery: np.ndarray, rule: str
) -> np.ndarray:
    """Rows of the ten best gallery items of each query, [Q, 10]; the query itself left out."""
    queries = np.asarray(queries)
    matrix = scores(features[torch.as_tensor(queries)], features[torch.as_tensor(gallery)], rule)
    matrix = matrix.masked_fill(torch.as_tensor(gallery[None, :] == queries[:, None]), -torch.inf)
    order = torch.sort(matrix, dim=1, descending=True, stable=True).indices[:, :10]
    return gallery[order.numpy()]


def top_ten(
    systems: Sequence[tuple[str, FeatureSet, str]], query: int, gallery: np.ndarray, path: Path
) -> None:
    """One row per system (label, features, rule): the query and its ten best, framed."""
    plt = pyplot()
    figure, axes = plt.subplots(len(systems), 11, figsize=(12, 2.6 * len(systems)), squeeze=False)
    for row, (label, features, rule) in zip(axes, systems, strict=True):
        assert features.paths is not None
        best = ranked(features, [query], gallery, rule)[0]
        right = features.ids[best] == features.ids[query]
        for rank, (panel, item) in enumerate(zip(row, [query, *best.tolist()], strict=True)):
            panel.imshow(np.asarray(read_image(features.paths[item])[0]))
            frame = _QUERY if rank == 0 else (_RIGHT if right[rank - 1] else _WRONG)
            for side in panel.spines.values():
                side.set_color(frame)
                side.set_linewidth(4)
            panel.set_xticks([])
            panel.set_yticks([])
            camera = f"cam{int(features.cams[item])}"
            mark = "query" if rank == 0 else f"{rank} {'right' if right[rank - 1] else 'wrong'}"
            panel.set_title(f"{mark}\n{camera}", fontsize=8)
        row[0].set_ylabel(f"{label}\n{int(right.sum())} of 10 right", fontsize=9)
    figure.suptitle(
        "The query whose top ten changes most, whole gallery (green: right, red: wrong)",
        fontsize=11,
    )
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure in the format of its suffix, whole or not at all; closes it."""
    figure.tight_layout()
    kind = path.suffix.removeprefix(".")
    # Without a date, and with its own names, the same figure is the same file.
    about = {"Date": None} if kind == "svg" else {}
    with atomic_write(path) as file, pyplot().rc_context({"svg.hashsalt": "mixer-plugin"}):
        figure.savefig(file, format=kind, dpi=110, metadata=about)
    pyplot().close(figure)
