"""The report of a run as one table of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from mixer_plugin.benchmarks.gpu.figures import figures
from mixer_plugin.benchmarks.gpu.parts import Part

WIDTH = 80


def summary(report: Mapping[str, Any], parts: Sequence[Part]) -> str:
    """Device, versions and commit; then a part a row: its state, seconds and main figures.

    Args:
        report: what ``gpu.json`` holds.
        parts: in the order of the rows.
    """
    outcomes = report["parts"]
    names = max(map(len, ("part", *outcomes)))
    states = max(len(own["state"]) for own in (*outcomes.values(), {"state": "state"}))
    indent = names + states + 12

    def row(name: str, state: str, seconds: str, lines: Sequence[str]) -> list[str]:
        wrapped = [piece for line in lines for piece in textwrap.wrap(line, WIDTH - indent)]
        first, *others = wrapped or [""]
        head = f"{name:{names}}  {state:{states}}  {seconds:>6}  {first}".rstrip()
        return [head, *(" " * indent + line for line in others)]

    size = ", in miniature" if report["quick"] else ""
    number, changed, _ = report["commit"].partition("+")
    about = (
        f"{report['device']}, PyTorch {report['torch']}, commit {number[:12]}{changed}, "
        f"{report['date']}, {report['minutes']:g} minutes{size}"
    )
    lines = [*textwrap.wrap(about, WIDTH), "", *row("part", "state", "s", ["figures"])]
    for part in parts:
        own = outcomes[part.name]
        found = own.get("found")
        shown = ([own["reason"]] if "reason" in own else []) + (
            figures(part.module, found) if found else []
        )
        taken = f"{own['seconds']:.1f}" if "seconds" in own else ""
        lines += row(part.name, own["state"], taken, shown)
    return "\n".join(lines) + "\n"
