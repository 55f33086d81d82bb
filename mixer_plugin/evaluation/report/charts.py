"""Charts as inline SVG: colours, dashes and marks are classes of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 360, 240
_LEFT, _RIGHT, _ABOVE, _BELOW = 48, 20, 10, 44
SERIES = 6  # line styles of the style sheet


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: What it shows.
        x: Numbers [N].
        y: Numbers [N]; it breaks where one is NaN.
        style: Its class.
        steps: Whether y holds from x to the next x, as a histogram's outline.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    style: str
    steps: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    labels: tuple[str, str],
    *,
    y_range: tuple[float, float] | None = None,
) -> str:
    """An SVG of lines.

    Args:
        title: What it shows, for a reader who cannot see it.
        lines: At least one.
        labels: Of the axes, x and y.
        y_range: Of the y axis; None: that of the numbers.
    """
    xs, ys = (
        np.concatenate([np.asarray(each, dtype=np.float64) for each in values])
        for values in ([line.x for line in lines], [line.y for line in lines])
    )
    known = np.isfinite(ys)
    xs, ys = xs[np.isfinite(xs)], ys[known] if known.any() else np.zeros(1)
    x_ticks = _ticks(float(xs.min()), float(xs.max()))
    y_ticks = _ticks(*(y_range or (float(ys.min()), float(ys.max()))))
    plot = _Plot((x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]))
    parts = [_axes(plot, x_ticks, y_ticks, labels)]
    for line in lines:
        x, y = (np.asarray(each, dtype=np.float64) for each in (line.x, line.y))
        if line.steps:  # down to zero at both ends, so that the area below has a floor
            x, y = np.repeat(x, 2), np.concatenate([[0], np.repeat(y, 2), [0]])
        path = plot.path(x, y)
        parts.append(f'<path class="{line.style}" d="{path}"><title>{escape(line.name)}</title>'
                     "</path>")  # fmt: skip
    return _svg(title, "".join(parts))


def scatter(
    title: str, places: NDArray[np.float64], styles: Sequence[str], names: Sequence[str]
) -> str:
    """An SVG of points without axes; ``infrared`` ones are triangles, others are discs.

    Args:
        title: What it shows.
        places: float64 [N, 2].
        styles: N classes.
        names: N names, each shown where the pointer rests.
    """
    low, high = places.min(axis=0), places.max(axis=0)
    at = (places - low) / np.where(high > low, high - low, 1) * (WIDTH - 16, HEIGHT - 16) + 8
    marks = []
    for (x, y), style, name in zip(at.tolist(), styles, names, strict=True):
        title_of = f"<title>{escape(name)}</title>"
        if style == "infrared":
            corners = f"M{x:.1f} {y - 4:.1f}l3.5 6.5h-7z"
            marks.append(f'<path class="dot {style}" d="{corners}">{title_of}</path>')
        else:
            marks.append(
                f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3">{title_of}</circle>'
            )
    return _svg(title, "".join(marks))


def interval(
    title: str, value: float, bounds: tuple[float, float] | None, limits: tuple[float, float]
) -> str:
    """A small SVG of a difference: a line at zero, the value, and its interval if there is one."""
    width, height = 200, 20
    low, high = limits

    def place(x: float) -> str:
        return f"{6 + (width - 12) * (min(max(x, low), high) - low) / (high - low):.1f}"

    zero = place(0)
    parts = [f'<path class="zero" d="M{zero} 0V{height}"/>']
    if bounds is not None:
        parts.append(f'<path class="range" d="M{place(bounds[0])} 10H{place(bounds[1])}"/>')
    parts.append(f'<circle class="mean" cx="{place(value)}" cy="10" r="4"/>')
    return _svg(title, "".join(parts), width, height, "interval")


def sample(style: str) -> str:
    """A legend's piece of a line or a point."""
    mark = f'<path class="{style}" d="M1 6H27"/>'
    if style in ("visible", "infrared"):
        mark = (
            '<path class="dot infrared" d="M14 1l5 10h-10z"/>'
            if style == "infrared"
            else '<circle class="dot visible" cx="14" cy="6" r="4"/>'
        )
    return f'<svg class="sample" viewBox="0 0 28 12" aria-hidden="true">{mark}</svg>'


@dataclass(frozen=True)
class _Plot:
    """Where numbers lie in the picture."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - _BELOW - (HEIGHT - _ABOVE - _BELOW) * (value - low) / (high - low)

    def path(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
        words, pen = [], "M"
        for a, b in zip(x.tolist(), y.tolist(), strict=True):
            if not math.isfinite(b):
                pen = "M"
                continue
            words.append(f"{pen}{self.x(a):.1f} {self.y(b):.1f}")
            pen = "L"
        return "".join(words)


def _axes(
    plot: _Plot, x_ticks: Sequence[float], y_ticks: Sequence[float], labels: tuple[str, str]
) -> str:
    bottom, parts = HEIGHT - _BELOW, []
    for value in y_ticks:
        y = f"{plot.y(value):.1f}"
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y}" dy="4" class="end">{_short(value)}</text>')
    for value in x_ticks:
        x = f"{plot.x(value):.1f}"
        parts.append(f'<text x="{x}" y="{bottom + 19}" class="middle">{_short(value)}</text>')
    middle = (WIDTH + _LEFT - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" class="middle">{escape(labels[0])}</text>')
    height = (HEIGHT - _BELOW + _ABOVE) / 2
    parts.append(
        f'<text class="middle" transform="translate(11 {height}) rotate(-90)">'
        f"{escape(labels[1])}</text>"
    )
    return "".join(parts)


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that span a range, 4 to 8 of them."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    power = 10.0 ** math.floor(math.log10(high - low))
    for size in (part * power for part in (5, 2, 1, 0.5, 0.2)):
        first, last = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
        if last - first >= 3:
            break
    return [round(i * size, 12) for i in range(first, last + 1)]


def _svg(
    title: str, inner: str, width: int = WIDTH, height: int = HEIGHT, style: str = "chart"
) -> str:
    return (
        f'<svg class="{style}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">{inner}</svg>'
    )
