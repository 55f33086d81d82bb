"""Two pictures of a run: the gains over the baseline, and the top ten of three queries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixer_plugin.benchmarks.experiment.comparisons import (
    Comparison,
    Measured,
    System,
    difference,
    titles_of,
)
from mixer_plugin.errors import MissingExtraError
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.io.image_file import read_image
from mixer_plugin.matching import scores

# One colour for one thing, told apart in grey and by colour-blind readers (Okabe and Ito).
COLOURS = {"(f)+MixER": "#0072b2", "e2e+MixER": "#d55e00"}
_CONTROL = "#777777"
_RIGHT, _WRONG, _QUERY = "#0072b2", "#d55e00", "#333333"
_ROWS = ("cross", "mix", "mix-cam-id", "mix-id")
_SHOWN = 10  # items of a list


def pyplot() -> Any:
    """Matplotlib without a display; raises :class:`MissingExtraError` where it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtraError("matplotlib", "demo", "Drawing the pictures") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def gains_plot(measured: Measured, rows: Mapping[str, System], baseline: str, path: Path) -> None:
    """Gains over the baseline: a row per setting, a colour per method, dots are seeds.

    Args:
        measured: results of one baseline.
        rows: the rows of :func:`summary.systems_of`, the baseline first.
        baseline: its name.
        path: of the picture.
    """
    plt = pyplot()
    plain, *others = rows
    every = titles_of(measured)
    settings = {s: title for s, title in every.items() if s in _ROWS} or every
    figure, panel = plt.subplots(figsize=(7.2, 0.8 * len(settings) + 1.2))
    panel.axvline(0, color="#444444", linewidth=0.8)
    step = 0.8 / len(others)
    for place, name in enumerate(others):
        compared = Comparison(name, rows[name], rows[plain])
        found = [difference(measured, compared, setting) for setting in settings]
        colour, label = COLOURS.get(name, _CONTROL), name
        for y, gain in enumerate(found):
            if gain is None:
                continue
            at = y + (place + 0.5) * step - 0.4
            values = list(gain.values.values())
            panel.barh(at, gain.mean, step * 0.8, color=colour, alpha=0.35)
            panel.plot(values, [at] * len(values), "o", color=colour, markersize=4, label=label)
            label = "_"  # once in the legend
    panel.set_yticks(range(len(settings)), list(settings.values()))
    panel.invert_yaxis()
    panel.set_xlabel("points of mAP over the baseline; bar: mean, dots: seeds")
    shown = min(len(others), 3)  # in a line of the legend
    above = 12 + 14 * math.ceil(len(others) / shown)  # points of room for it: it hides no seed
    panel.set_title(f"What each adds to {baseline}", fontsize=11, pad=above)
    panel.grid(axis="x", linewidth=0.3)
    panel.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, fontsize=9, ncols=shown
    )
    save_figure(figure, path)


@dataclass(frozen=True)
class ChosenQuery:
    """A query that a picture shows.

    Attributes:
        row: of the features.
        why: the rule that chose it.
        before: its average precision by the baseline.
        after: by the other system.
    """

    row: int
    why: str
    before: float
    after: float


def choose_queries(rows: np.ndarray, before: np.ndarray, after: np.ndarray) -> list[ChosenQuery]:
    """Those of the largest gain, of the median change and of the largest loss; ties to the first.

    Where no query has a positive, none is chosen.

    Args:
        rows: int64 [Q], the queries.
        before: float64 [Q], their average precision by the baseline.
        after: float64 [Q], by the other system.
    """
    known = np.flatnonzero(np.isfinite(before) & np.isfinite(after))
    if not len(known):
        return []
    order = known[np.argsort(-(after - before)[known], kind="stable")]
    chosen = {"largest gain": order[0], "median": order[len(order) // 2], "largest loss": order[-1]}
    return [
        ChosenQuery(int(rows[at]), why, float(before[at]), float(after[at]))
        for why, at in chosen.items()
    ]


def ranked(
    features: FeatureSet, query: int, gallery: np.ndarray, rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the ten best gallery items, the query itself left out, and their scores."""
    asking = features[torch.as_tensor([query])]
    found = scores(asking, features[torch.as_tensor(gallery)], rule)[0]
    found = found.masked_fill(torch.as_tensor(gallery == query), -torch.inf)
    best = torch.sort(found, descending=True, stable=True).indices
    best = best[: min(_SHOWN, int(torch.isfinite(found).sum()))]
    return gallery[best.numpy()], found[best].numpy()


@dataclass(frozen=True)
class ShownList:
    """A query and the first items of its list.

    Attributes:
        query: row of the features.
        label: what stands beside it, a few short lines.
        items: rows of the items, best first.
        scores: of the items.
    """

    query: int
    label: str
    items: Sequence[int]
    scores: Sequence[float]


def three_queries(
    systems: Sequence[tuple[str, FeatureSet, str]],
    chosen: Sequence[ChosenQuery],
    gallery: np.ndarray,
    title: str,
    path: Path,
) -> None:
    """The ten best items of each query by each of two systems (label, features, rule)."""
    lists = []
    for query in chosen:
        for label, features, rule in systems:
            best, found = ranked(features, query.row, gallery, rule)
            own = query.before if label == systems[0][0] else query.after
            words = f"{query.why}\n{label}\nAP {100 * own:.0f} %"
            lists.append(ShownList(query.row, words, best.tolist(), found.tolist()))
    save_figure(lists_figure(lists, systems[0][1], title, _SHOWN), path)


def lists_figure(lists: Sequence[ShownList], features: FeatureSet, title: str, shown: int) -> Any:
    """A row a list, the query first; as a figure of Matplotlib.

    Above an item: its modality and camera; below: its score, and whether the person is right.

    Args:
        lists: what to show.
        features: of the images, with their paths.
        title: heading.
        shown: items of a list.
    """
    figure, axes = pyplot().subplots(
        len(lists), 1 + shown, figsize=(1 + shown, 1.75 * len(lists) + 0.6), squeeze=False
    )
    for row, own in zip(axes, lists, strict=True):
        for panel, item in zip(row, [own.query, *own.items], strict=False):
            _show(panel, features, item)
        _frame(row[0], _QUERY, "query")
        for panel, item, score in zip(row[1:], own.items, own.scores, strict=False):
            right = bool(features.ids[item] == features.ids[own.query])
            mark = "right" if right else "wrong"
            _frame(panel, _RIGHT if right else _WRONG, f"{score:.2f} {mark}")
        for panel in row[1 + len(own.items) :]:
            panel.axis("off")
        row[0].set_ylabel(own.label, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def _show(panel: Any, features: FeatureSet, item: int) -> None:
    assert features.paths is not None
    panel.imshow(np.asarray(read_image(features.paths[item])[0]), interpolation="none")
    panel.set_xticks([])
    panel.set_yticks([])
    badge = "IR" if int(features.modality[item]) else "V"
    panel.set_title(f"{badge} cam{int(features.cams[item])}", fontsize=8)


def _frame(panel: Any, colour: str, words: str) -> None:
    panel.set_xlabel(words, fontsize=8)
    for side in panel.spines.values():
        side.set_color(colour)
        side.set_linewidth(3)


# Without a date, and with its own names, the same figure is the same file.
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def save_figure(figure: Any, *paths: Path) -> None:
    """Writes a figure in the format of each suffix, whole or not at all; closes it."""
    figure.tight_layout()
    for path in paths:
        kind = path.suffix.removeprefix(".")
        about = _UNDATED.get(kind, {})
        with atomic_write(path) as file, pyplot().rc_context({"svg.hashsalt": "mixer-plugin"}):
            figure.savefig(file, format=kind, dpi=110, metadata=about)
    pyplot().close(figure)
