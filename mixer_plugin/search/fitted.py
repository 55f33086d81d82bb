"""Means and statistics of the first set added, used for all later images and queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.normalized import Lift, UnitSource, present, unit_source
from mixer_plugin.matching.rules import Rule
from mixer_plugin.matching.score_norm import (
    Moments,
    all_moments,
    all_rows,
    find_cohort,
    standardised,
    standardised_by,
)

_SOURCES = ("erased", "related")


@dataclass(frozen=True, kw_only=True)
class GalleryStatistics:
    """Statistics of the first set of an index, on the CPU; empty before there is one.

    Attributes:
        center: By source float32 [2, D], the mean of each normalised feature per modality, NaN
            where there is no image of it; None: no calibration.
        moments: By source and modality, moments of the cohort of a standardised rule (a
            ``…-calibrated`` one); None for another rule.
        lift: How much features and pairs across count in a standardised rule; None for another.
    """

    center: dict[str, Tensor] | None = None
    moments: dict[tuple[str, int], Moments] | None = None
    lift: Lift | None = None


def fit_statistics(
    features: FeatureSet, rule: Rule, calibration: str | None
) -> tuple[GalleryStatistics, UnitSource]:
    """Statistics of the first set, and its images, ready for vectors.

    An image leaves itself out of its own statistics, as in ``mixer_plugin.scores``.

    Args:
        features: N images, at least one.
        rule: Rule.
        calibration: None or ``center``.
    """
    source, every = unit_source(features, {"": rule}), all_rows(features)
    center = moments = lift = None
    if calibration == "center":
        source = source.centered(source.rows(every))
        center = {name: value.cpu() for name, value in (source.center or {}).items()}
    if rule.standardised:
        cohort = find_cohort(source, every, [rule])
        moments = {
            key: Moments(value.mean.cpu(), value.covariance.cpu())
            for key, value in all_moments(cohort).items()
        }
        source, lift = standardised(source, cohort, every), cohort.lifts[rule]
    return GalleryStatistics(center=center, moments=moments, lift=lift), source


def with_statistics(features: FeatureSet, rule: Rule, statistics: GalleryStatistics) -> UnitSource:
    """Queries or later images, ready for vectors; none of them is in the first set.

    Raises:
        MixERValueError: There is no mean for a modality of these images.
    """
    source = unit_source(features, {"": rule})
    if statistics.center is not None:
        for value in present(features.modality):
            if statistics.center["erased"][value].isnan().any():
                raise MixERValueError(
                    f"Calibration 'center' has no mean for {Modality(value).name.lower()} images: "
                    "the first set added held none. Build from a gallery of both modalities."
                )
        device = features.erased.device
        center = {name: mean.to(device) for name, mean in statistics.center.items()}
        source = replace(source, center=center)
    if statistics.moments is None or statistics.lift is None:
        return source
    return standardised_by(source, statistics.moments, {rule: statistics.lift})


def uncentered(part: Tensor, center: Tensor) -> Tensor:
    """Unit vectors x [N, D] of part = (x - center) / |x - center|, the mean of their modality."""
    along = part @ center
    # |length * part + center| = 1 has one positive solution, as a mean is no longer than 1.
    length = (along**2 + 1 - center.dot(center)).clamp(min=0).sqrt() - along
    return part * length[:, None] + center


def check_later(features: FeatureSet, rule: str, statistics: GalleryStatistics) -> None:
    """Raises for images to add of a modality that the first set's statistics do not cover."""
    known = {side for _, side in statistics.moments or ()}
    for value in present(features.modality) if known else ():
        if value not in known:
            raise MixERValueError(
                f"Rule {rule!r} has no statistics of cosines with {Modality(value).name.lower()} "
                "images: the first set added held none. Build from a gallery of both modalities, "
                "or use rule 'mixer'."
            )


def statistics_arrays(statistics: GalleryStatistics) -> dict[str, NDArray[Any]]:
    """The means and moments by name, for a file; the lift is left out."""
    arrays = {f"center_{name}": mean.numpy() for name, mean in (statistics.center or {}).items()}
    for (source, side), moments in (statistics.moments or {}).items():
        for field, name in _moment_names(source, side).items():
            arrays[name] = getattr(moments, field).numpy()
    return arrays


def statistics_from(arrays: Mapping[str, NDArray[Any]], lift: Lift | None) -> GalleryStatistics:
    """The statistics of ``statistics_arrays``; arrays of other names are ignored."""
    moments, center = {}, {}
    for source in _SOURCES:
        if f"center_{source}" in arrays:
            center[source] = torch.from_numpy(arrays[f"center_{source}"])
        for side in Modality:
            names = _moment_names(source, side)
            if names["mean"] in arrays:
                fields = {f: torch.from_numpy(arrays[name]) for f, name in names.items()}
                moments[source, int(side)] = Moments(**fields)
    return GalleryStatistics(center=center or None, moments=moments or None, lift=lift)


def _moment_names(source: str, side: int) -> dict[str, str]:
    kind = Modality(side).name.lower()
    return {field: f"{field}_{source}_{kind}" for field in ("mean", "covariance")}
