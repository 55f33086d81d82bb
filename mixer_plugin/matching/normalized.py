"""L2-normalised features, ready for products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.features.validation import empty
from mixer_plugin.matching.rules import Rule
from mixer_plugin.matching.shuffle import shuffled_rows

_EPS, _LARGE = 1e-12, 1e18  # lengths between which squares in float32 are safe


class Lift(NamedTuple):
    """What the gallery's own scores say of a standardised rule (``mixer_plugin.matching.lift``).

    A score z of a pair across modalities counts as ``slope * z + offset``. Where a pair is scored
    by both features, their weights are in the proportion of ``erased`` and ``related``.
    """

    slope: float
    offset: float
    erased: float = 1.0
    related: float = 1.0


PLAIN = Lift(1.0, 0.0)


@dataclass(frozen=True)
class UnitFeatures:
    """L2-normalised features of N images, ready for products.

    Attributes:
        parts: float32 [N, D] by source: ``erased``, and where a rule needs them ``related`` and
            ``shuffled`` (``related`` randomly permuted within each modality).
        modality: int64 [N].
        scaling: As of ``UnitSource``.
        lifts: As of ``UnitSource``.
    """

    parts: dict[str, Tensor]
    modality: Tensor
    scaling: dict[str, Tensor] | None = None
    lifts: Mapping[Rule, Lift] = field(default_factory=dict)


@dataclass(frozen=True)
class UnitSource:
    """Normalises chosen rows of a feature set, when they are needed.

    Attributes:
        features: The set.
        sources: What is needed of ``rules.SOURCES``.
        shuffled: int64 [N], the row whose related feature each row has as ``shuffled``.
        center: By source float32 [2, D], the mean to subtract per modality (NaN where unknown);
            None: no centering.
        scaling: By source float32 [N, 2, 2]: slope and offset that an image adds to those of its
            cosines with items of each modality (``matching.score_norm``); None: not known.
        lifts: By standardised rule, how much features and pairs across count.
    """

    features: FeatureSet
    sources: tuple[str, ...]
    shuffled: Tensor
    center: dict[str, Tensor] | None = None
    scaling: dict[str, Tensor] | None = None
    lifts: Mapping[Rule, Lift] = field(default_factory=dict)

    def width(self, source: str) -> int:
        """Number of dimensions of a source."""
        return self._raw(source).shape[1]

    def rows(self, index: Tensor) -> UnitFeatures:
        """Normalised features of the images int64 [M]; a zero vector stays zero (cosine 0).

        Raises:
            MixERValueError: Centering is asked for and a modality has no center.
        """
        modality = self.features.modality[index]
        parts = {}
        for source in self.sources:
            raw = self._raw(source)
            # A copy: all that follows may work in place.
            picked = empty((len(index), raw.shape[1]), raw)
            rows = self.shuffled[index] if source == "shuffled" else index
            torch.index_select(raw, 0, rows, out=picked)
            parts[source] = _normalize_(picked, any_scale=True)
            if self.center is not None:
                center = self.center[source][modality]
                if center.isnan().any():
                    name = Modality(int(modality[center.isnan().any(dim=1)][0])).name.lower()
                    raise MixERValueError(
                        "Calibration 'center' subtracts the gallery's mean per modality, but the "
                        f"gallery holds no {name} image while queries are; use 'znorm' or None."
                    )
                parts[source] = _normalize_(picked.sub_(center))
        scaling = None
        if self.scaling is not None:
            scaling = {source: value[index] for source, value in self.scaling.items()}
        return UnitFeatures(parts, modality, scaling, self.lifts)

    def centered(self, gallery: UnitFeatures) -> UnitSource:
        """The same with the mean of each modality of the gallery subtracted."""
        center = {}
        for source, value in gallery.parts.items():
            center[source] = value.new_full((2, value.shape[1]), torch.nan)
            for modality in present(gallery.modality):
                mean = value[gallery.modality == modality].mean(dim=0, dtype=torch.float64)
                center[source][modality] = mean
        return replace(self, center=center)

    def _raw(self, source: str) -> Tensor:
        raw = self.features.erased if source == "erased" else self.features.related
        assert raw is not None, "check_related comes first"
        return raw


def unit_source(features: FeatureSet, rules: dict[str, Rule]) -> UnitSource:
    """What the rules need of a feature set."""
    needed = {"erased"}.union(*(rule.sources for rule in rules.values()))
    return UnitSource(features, tuple(sorted(needed)), shuffled_rows(features.modality))


def _normalize_(value: Tensor, *, any_scale: bool = False) -> Tensor:
    """Divides rows by their length; with ``any_scale`` also where its square leaves float32."""
    norm = torch.linalg.vector_norm(value, dim=1, keepdim=True)
    if any_scale and len(norm):  # a difference of features is nothing where it is so small
        least, most = norm.aminmax()
        if least < _EPS or most > _LARGE:
            odd = ((norm < _EPS) | (norm > _LARGE)).flatten().nonzero().flatten()
            rows = value[odd]
            largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1, keepdim=True)
            value[odd] = rows / torch.where(largest > 0, largest, 1.0)
            norm[odd] = torch.linalg.vector_norm(value[odd], dim=1, keepdim=True)
    return value.div_(norm.clamp_(min=_EPS))


def present(modality: Tensor) -> list[int]:
    """The modalities that occur, in order."""
    return sorted(set(modality.tolist()))
