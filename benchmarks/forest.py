"""A study's differences as a picture: a panel a baseline, a row a setting, a colour a difference.

``python -m mixer_plugin.benchmarks.forest RESULTS/recipe.json … --out FILE.svg [--difference …]``.
Several studies stand beside each other, each with baselines of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixer_plugin.benchmarks.experiment.comparisons import SETTINGS, TITLES
from mixer_plugin.benchmarks.experiment.pictures import pyplot, save_figure
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.io.console import run_command
from mixer_plugin.io.text_file import read_text

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito's, also apart in grey


def forest(numbers: Sequence[dict[str, Any]], differences: Sequence[str]) -> Any:
    """Mean and 95 % interval of some differences, as a figure of Matplotlib.

    Args:
        numbers: of a study's ``recipe.json``.
        differences: their labels, in the order of the legend; at most four.

    Raises:
        MixERValueError: for a label that the study does not have, or more than four.
    """
    known = list(dict.fromkeys(row["difference"] for row in numbers))
    for label in differences:
        check_name("difference", label, known)
    if not 0 < len(differences) <= len(COLOURS):
        raise MixERValueError(
            f"{len(differences)} differences are asked for; a picture shows 1 to {len(COLOURS)}. "
            "Name them with --difference."
        )
    rows = {(row["baseline"], row["difference"], row["setting"]): row for row in numbers}
    if len(rows) < len(numbers):
        raise MixERValueError(
            "A baseline's difference stands twice in a setting: two studies share a baseline, or a "
            "study has several worlds. Give studies whose baselines and worlds differ."
        )
    baselines = list(dict.fromkeys(row["baseline"] for row in numbers))
    settings = [s for s in SETTINGS if any(row["setting"] == s for row in numbers)]
    figure, panels = pyplot().subplots(
        1, len(baselines), sharex=True, sharey=True, squeeze=False,
        figsize=(0.8 + 3.6 * len(baselines), 1 + (0.3 + 0.16 * len(differences)) * len(settings)),
    )  # fmt: skip
    step = 0.8 / len(differences)
    for panel, baseline in zip(panels[0], baselines, strict=True):
        panel.axvline(0, color="#444444", linewidth=0.8)
        for place, (label, colour) in enumerate(zip(differences, COLOURS, strict=False)):
            for y, setting in enumerate(settings):
                row = rows.get((baseline, label, setting))
                if row is None:
                    continue
                at = y + (place + 0.5) * step - 0.4
                name = label if y == 0 else "_"
                panel.plot(row["mean"], at, "o", color=colour, markersize=4, label=name)
                if row["interval"]:
                    panel.plot(row["interval"], [at, at], color=colour, linewidth=1.6)
        panel.set_title(baseline, fontsize=10)
        panel.grid(axis="x", linewidth=0.3)
        panel.set_xlabel("points of mAP", fontsize=9)
    panels[0][0].set_yticks(range(len(settings)), [TITLES.get(s, "within") for s in settings])
    panels[0][0].invert_yaxis()
    panels[0][0].legend(loc="lower left", bbox_to_anchor=(0, 1.1), fontsize=8, frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="forest", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("numbers", type=Path, nargs="+", help="recipe.json of a study; several")
    parser.add_argument("--difference", action="append", default=[], help="label; several")
    parser.add_argument("--out", type=Path, required=True, help="picture: .svg, .pdf or .png")
    options = parser.parse_args(arguments)

    def work() -> None:
        numbers = [row for path in options.numbers for row in json.loads(read_text(path))]
        every = list(dict.fromkeys(row["difference"] for row in numbers))
        save_figure(forest(numbers, options.difference or every), options.out)

    return run_command("forest", work)


if __name__ == "__main__":
    sys.exit(main())
