"""Curves: results as the gallery's mixture or its size changes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin.errors import MissingExtraError, MixERValueError
from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.protocols.fixed_gallery import fixed_gallery
from mixer_plugin.evaluation.protocols.registry import Protocol, as_protocol
from mixer_plugin.evaluation.results import ResultRow
from mixer_plugin.evaluation.settings import query_side
from mixer_plugin.evaluation.statistics import SEED
from mixer_plugin.evaluation.tables import markdown_table, percent, to_json
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.matching.rules import System

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Curve:
    """Results over something that changes.

    Attributes:
        axis: What changes.
        points: Its value and the result there, mean and standard deviation (n - 1, no interval)
            over the draws.
    """

    axis: str
    points: tuple[tuple[float, ResultRow], ...]

    def to_markdown(self) -> str:
        """A Markdown table, metrics in percent, with their spread over the draws."""
        body = [
            [f"{value:g}", _spread(row.mAP, row.mAP_std), _spread(row.r1, row.r1_std)]
            + [f"{n:.10g}" for n in (row.gallery_size, row.queries_valid, row.queries_dropped)]
            + [str(row.trials)]
            for value, row in self.points
        ]
        head = [self.axis, "mAP", "R1", "gallery", "valid", "dropped", "draws"]
        return markdown_table(head, body, labels=0)

    def to_json(self) -> str:
        """JSON in full precision; NaN becomes null."""
        points = [{"value": value, **asdict(row)} for value, row in self.points]
        return to_json({"axis": self.axis, "points": points})


def mixing_curve(
    features: FeatureSet,
    protocol: str | Protocol,
    *,
    shares: Sequence[float] = SHARES,
    size: int | None = None,
    draws: int = 5,
    setting: str = "mix",
    query: str = "infrared",
    rule: str = "mixer",
    calibration: str | None = None,
    seed: int = SEED,
    device: torch.device | str | None = None,
) -> Curve:
    """Results in a gallery of fixed size whose share of infrared images changes.

    Images are drawn without replacement from the protocol's own galleries, in turn. Of one draw,
    the images of a modality at a small share are among those at a larger one.

    Args:
        features: Images of both modalities.
        protocol: Protocol or its id.
        shares: Shares of infrared images.
        size: Images in the gallery; None: as many as can be had at every share.
        draws: Galleries per share.
        setting: Setting.
        query: ``infrared`` or ``visible``.
        rule: Rule of ``scores``.
        calibration: Calibration; ``center`` needs a gallery with images of the query's modality.
        seed: Seed of the draws.
        device: Where to compute; None: where the features are.

    Returns:
        A point per share.

    Raises:
        MixERValueError: A share outside [0, 1], no draw, a size that cannot be had, or as
            ``evaluate``.
    """
    query_side(query)
    _check(shares, draws, "Shares", 0.0)
    protocol = as_protocol(protocol)
    infrared = features.modality.cpu().numpy() == Modality.INFRARED
    pools = [
        tuple(generator.permutation(rows[infrared[rows] == side]) for side in (False, True))
        for rows, generator in _bases(features, protocol, draws, seed)
    ]
    most = min(_largest(len(v), len(i), share) for v, i in pools for share in shares)
    total = most if size is None else size
    if not 1 <= total <= most:
        raise MixERValueError(
            f"A gallery of {total} images cannot be had at every share; at most {most}, at least 1."
        )
    points = []
    for share in shares:
        count = round(total * share)
        gallery = [np.concatenate([v[: total - count], i[:count]]) for v, i in pools]
        note = f"{total} images, a share of {share:g} of them infrared"
        given = fixed_gallery(protocol, gallery, note)
        row = _evaluate(features, given, setting, (rule, calibration), query=query, device=device)
        points.append((float(share), row))
    return Curve("share of infrared", tuple(points))


def gallery_curve(
    features: FeatureSet,
    protocol: str | Protocol,
    *,
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 5,
    setting: str = "mix",
    query: str = "infrared",
    rule: str = "mixer",
    calibration: str | None = None,
    seed: int = SEED,
    device: torch.device | str | None = None,
) -> Curve:
    """Results as the number of identities in the gallery grows.

    The gallery holds all images, in the protocol's own galleries, of some identities, and those of
    unknown persons (below 0), who count as no identity. A query of one of them has its own identity
    and the others as distractors; the queries of an identity that is not drawn have no positive and
    are left out, also where the protocol calls that an error. Of one draw, the identities at a
    small fraction are among those at a larger one.

    Args:
        features: Images.
        protocol: Protocol or its id.
        fractions: Fractions of the gallery's identities, rounded up to whole identities.
        draws: Galleries per fraction.
        setting: Setting.
        query: ``infrared`` or ``visible``.
        rule: Rule of ``scores``.
        calibration: Calibration.
        seed: Seed of the draws.
        device: Where to compute; None: where the features are.

    Returns:
        A point per fraction; its value is the number of identities (mean over the draws).

    Raises:
        MixERValueError: A fraction outside (0, 1], no draw, or as ``evaluate``.
    """
    query_side(query)
    _check(fractions, draws, "Fractions", math.ulp(0.0))
    protocol = as_protocol(protocol)
    ids = features.ids.cpu().numpy()
    pools = [
        (rows, generator.permutation(np.unique(ids[rows][ids[rows] >= 0])))
        for rows, generator in _bases(features, protocol, draws, seed)
    ]
    points = []
    for fraction in fractions:
        kept = [names[: math.ceil(fraction * len(names))] for _, names in pools]
        gallery = [
            rows[np.isin(ids[rows], names) | (ids[rows] < 0)]
            for (rows, _), names in zip(pools, kept, strict=True)
        ]
        note = f"the images of a fraction of {fraction:g} of the identities"
        given = replace(fixed_gallery(protocol, gallery, note), no_positive="drop")
        row = _evaluate(features, given, setting, (rule, calibration), query=query, device=device)
        points.append((float(np.mean([len(names) for names in kept])), row))
    return Curve("identities", tuple(points))


def plot_curve(curve: Curve, path: str | os.PathLike[str]) -> None:
    """Draws mAP and R1 with their spread; the file's ending says the format.

    Args:
        curve: The curve.
        path: The file, such as ``curve.png`` or ``curve.pdf``.

    Raises:
        MissingExtraError: Matplotlib is not installed.
        MixERValueError: The folder does not exist, or the format is unknown.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "demo", "Drawing a curve") from error
    target = Path(path)
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    formats = figure.canvas.get_supported_filetypes()
    if target.suffix[1:] not in formats:
        raise MixERValueError(
            f"{target.name} has no known format; end the name in one of {', '.join(formats)}."
        )
    values = [value for value, _ in curve.points]
    for name, metric in (("mAP", "mAP"), ("R1", "r1")):
        means = [100 * getattr(row, metric) for _, row in curve.points]
        spreads = [100 * np.nan_to_num(getattr(row, f"{metric}_std")) for _, row in curve.points]
        axes.errorbar(values, means, yerr=spreads, marker="o", capsize=3, label=name)
    row = curve.points[0][1]
    axes.set(xlabel=curve.axis, ylabel="%", title=f"{row.setting}, {row.query} query, {row.rule}")
    axes.legend()
    with atomic_write(target) as file:
        figure.savefig(file, format=target.suffix[1:])


def _evaluate(
    features: FeatureSet, protocol: Protocol, setting: str, system: System, **options: Any
) -> ResultRow:
    (row,) = evaluate(features, protocol, settings=(setting,), systems=(system,), **options).rows
    return row


def _bases(
    features: FeatureSet, protocol: Protocol, draws: int, seed: int
) -> list[tuple[NDArray[np.int64], np.random.Generator]]:
    """The protocol's own galleries in turn, each with a generator."""
    own = protocol.draws(features)
    return [(own[i % len(own)], np.random.default_rng([seed, i])) for i in range(draws)]


def _check(values: Sequence[float], draws: int, what: str, least: float) -> None:
    if not values or not all(least <= value <= 1 for value in values) or draws < 1:
        raise MixERValueError(
            f"{what} must be given, up to 1 and {'above' if least else 'from'} 0, and draws be at "
            f"least 1; got {list(values)} and {draws}."
        )


def _largest(visible: int, infrared: int, share: float) -> int:
    """The most images of a gallery with this share that these pools can fill."""
    size = visible + infrared
    while round(size * share) > infrared or size - round(size * share) > visible:
        size -= 1
    return size


def _spread(mean: float, std: float) -> str:
    return percent(mean) + ("" if math.isnan(std) else f" ± {percent(std)}")
