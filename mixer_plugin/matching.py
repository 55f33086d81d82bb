"""The score of a pair of images (MixER, sec. 3.3): rules and calibrations.

``rules.py`` says how the two cosines of a pair count. ``scores`` gives a whole matrix; the
evaluation ranks row blocks made by the same ``score_blocks``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mixer_plugin.arrays import empty
from mixer_plugin.errors import MixERTypeError, MixERValueError, closest
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.rules import Rule, check_rules

_SHUFFLE_SEED = 20250301
_EPS = 1e-12
_FLAT = 1e-9


CALIBRATIONS = ("znorm", "center")


def scores(
    query: FeatureSet,
    gallery: FeatureSet,
    rule: str = "mixer",
    calibration: str | None = None,
    *,
    self_index: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Similarity of every query with every gallery item; higher is more alike.

    Cosines of L2-normalised features, float32 throughout (no TF32, no autocast).

    Args:
        query: Nq images, of one modality or both.
        gallery: Ng images.
        rule: ``mixer`` (sec. 3.3: mean of the erased and the related cosine within a modality,
            erased cosine across), ``erased``, ``related`` (also across modalities), ``dev-sum``,
            ``dev-switch`` (scores of the authors' development code) or ``mixer-shuffled``
            (control: ``mixer`` with each set's related features shuffled within its modalities, by
            a fixed seed).
        calibration: None; ``znorm``: a query's scores with the gallery items of one modality are
            shifted and scaled by their own mean and (population) standard deviation; ``center``:
            the gallery's mean of each L2-normalised feature, per modality, is subtracted from all
            features of that modality, the queries' too, which are then normalised again. Neither
            uses a label or another query.
        self_index: int64 [Nq], the gallery row that is the query itself, -1 where it is absent.
            ``znorm`` leaves this pair out of its statistics; nothing else uses it.

    Returns:
        float32 [Nq, Ng] on the query's device.

    Raises:
        MixERValueError: Unknown rule or calibration, different widths, related features needed but
            absent, ``center`` with a gallery that lacks a modality of the queries, or a
            ``self_index`` that does not fit.
    """
    chosen = check_rules([rule])
    check_calibration(calibration)
    check_related(query, chosen)
    check_related(gallery, chosen)
    _check_widths(query, gallery)
    gallery = gallery.to(query.erased.device)
    own = _check_self(self_index, query, gallery)
    q, g = unit_source(query, chosen), unit_source(gallery, chosen)
    order = torch.argsort(gallery.modality, stable=True)
    split = int((gallery.modality == Modality.VISIBLE).sum())
    items = g.rows(order)
    if calibration == "center":
        q, g = q.centered(items), g.centered(items)
        items = g.rows(order)
    place = torch.argsort(order)
    result = query.erased.new_empty(len(query), len(gallery))
    for modality in _present(query.modality):
        rows = (query.modality == modality).nonzero().flatten()
        ((_, block),) = score_blocks(q.rows(rows), items, split, modality, chosen)
        if calibration == "znorm":
            own_rows = own[rows]
            own_rows = torch.where(own_rows >= 0, place[own_rows.clamp(min=0)], own_rows)
            znorm_(block, split, own_rows)
        result[rows] = block[:, place]
    return result


@dataclass(frozen=True)
class UnitFeatures:
    """L2-normalised features of N images, ready for products.

    Attributes:
        parts: float32 [N, D] by source: ``erased``, and where a rule needs them ``related`` and
            ``shuffled`` (``related`` dealt out anew within each modality).
        modality: int64 [N].
    """

    parts: dict[str, Tensor]
    modality: Tensor


def check_calibration(name: str | None) -> None:
    """Raises for an unknown calibration."""
    if name is not None and name not in CALIBRATIONS:
        raise MixERValueError(
            f"Unknown calibration {name!r}.{closest(name, CALIBRATIONS)} None is no calibration."
        )


def check_related(features: FeatureSet, rules: dict[str, Rule]) -> None:
    """Raises if a rule needs related features and there are none."""
    needing = [name for name, rule in rules.items() if rule.needs_related]
    if needing and features.related is None:
        raise MixERValueError(
            f"Rule {needing[0]!r} needs related features, but the FeatureSet has related=None; "
            "extract them with a wrapped model, or use rule 'erased'."
        )


@dataclass(frozen=True)
class UnitSource:
    """Normalises chosen rows of a feature set, when they are needed.

    Attributes:
        features: The set.
        sources: What is needed: ``erased``, ``related``, ``shuffled``.
        deal: int64 [N], the row whose related feature each row gets as ``shuffled``.
        center: By source float32 [2, D], the mean to subtract per modality (NaN where unknown);
            None: no centering.
    """

    features: FeatureSet
    sources: tuple[str, ...]
    deal: Tensor
    center: dict[str, Tensor] | None = None

    def rows(self, index: Tensor) -> UnitFeatures:
        """Normalised features of the images int64 [M]; a zero vector stays zero (cosine 0).

        Raises:
            MixERValueError: Centering is asked for and a modality has no center.
        """
        modality = self.features.modality[index]
        parts = {}
        for source in self.sources:
            raw = self.features.erased if source == "erased" else self.features.related
            assert raw is not None, "check_related comes first"
            # A copy: all that follows may work in place.
            picked = empty((len(index), raw.shape[1]), raw)
            torch.index_select(
                raw, 0, self.deal[index] if source == "shuffled" else index, out=picked
            )
            parts[source] = _normalize_(picked)
            if self.center is not None:
                center = self.center[source][modality]
                if center.isnan().any():
                    name = Modality(int(modality[center.isnan().any(dim=1)][0])).name.lower()
                    raise MixERValueError(
                        "Calibration 'center' subtracts the gallery's mean per modality, but the "
                        f"gallery holds no {name} image while queries are; use 'znorm' or None."
                    )
                parts[source] = _normalize_(picked.sub_(center))
        return UnitFeatures(parts, modality)

    def centered(self, gallery: UnitFeatures) -> UnitSource:
        """The same with the mean of each modality of the gallery subtracted."""
        center = {}
        for source, value in gallery.parts.items():
            center[source] = value.new_full((2, value.shape[1]), torch.nan)
            for modality in _present(gallery.modality):
                mean = value[gallery.modality == modality].mean(dim=0, dtype=torch.float64)
                center[source][modality] = mean
        return replace(self, center=center)


def unit_source(features: FeatureSet, rules: dict[str, Rule]) -> UnitSource:
    """What the rules need of a feature set."""
    needed = {_related_source(rule) for rule in rules.values() if rule.needs_related}
    deal = shuffle_within(features.modality)
    return UnitSource(features, ("erased", *sorted(needed)), deal)


def _normalize_(value: Tensor) -> Tensor:
    return value.div_(torch.linalg.vector_norm(value, dim=1, keepdim=True).clamp_(min=_EPS))


def shuffle_within(modality: Tensor) -> Tensor:
    """A fixed random permutation that keeps every modality's rows among themselves, int64 [N]."""
    # A generator of its own, on the CPU: the global random state is left alone, and the
    # permutation is the same on every device.
    generator = torch.Generator().manual_seed(_SHUFFLE_SEED)
    labels = modality.cpu()
    permutation = torch.arange(len(labels))
    for value in _present(labels):
        rows = (labels == value).nonzero().flatten()
        permutation[rows] = rows[torch.randperm(len(rows), generator=generator)]
    return permutation.to(modality.device)


def _present(modality: Tensor) -> list[int]:
    return sorted(set(modality.tolist()))


def score_blocks(
    query: UnitFeatures,
    gallery: UnitFeatures,
    split: int,
    modality: int,
    rules: dict[str, Rule],
    out: Tensor | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Scores of one block of queries under each rule; the rules share the products.

    Args:
        query: Q images, all of one modality.
        gallery: G images, the visible ones first.
        split: Number of visible gallery images.
        modality: The modality of the queries.
        rules: Rules by name.
        out: Memory to write to, float32 [at least Q, G]: each matrix then lasts until the next is
            asked for. Fresh memory for every block costs as much as a pass over it.

    Yields:
        Name and float32 [Q, G]; without ``out`` a matrix of its own for each rule.
    """
    made = products(query, gallery, split, modality, rules)
    for name, rule in rules.items():
        shape = (len(query.modality), len(gallery.modality))
        result = empty(shape, query.parts["erased"]) if out is None else out[: shape[0]]
        for other, part in _columns(split):
            (source, weight), *more = _terms(rule, modality, other)
            torch.mul(made[source, other], weight, out=result[:, part])
            for source, weight in more:
                result[:, part].add_(made[source, other], alpha=weight)
        yield name, result


def products(
    query: UnitFeatures, gallery: UnitFeatures, split: int, modality: int, rules: dict[str, Rule]
) -> dict[tuple[str, int], Tensor]:
    """The cosines that the rules need, float32 [Q, items], by source and gallery modality.

    Arguments as in ``score_blocks``.
    """
    made: dict[tuple[str, int], Tensor] = {}
    for rule in rules.values():
        for other, part in _columns(split):
            for source, _ in _terms(rule, modality, other):
                if (source, other) not in made:
                    left, right = query.parts[source], gallery.parts[source][part]
                    with full_float32(left.device):
                        made[source, other] = left @ right.T
    return made


def _columns(split: int) -> list[tuple[int, slice]]:
    return [(int(Modality.VISIBLE), slice(0, split)), (int(Modality.INFRARED), slice(split, None))]


def _terms(rule: Rule, query: int, gallery: int) -> list[tuple[str, float]]:
    """The cosines of a pair that count, by source, and their weights."""
    erased, related = rule.weights(query, gallery)
    terms = [("erased", erased), (_related_source(rule), related)]
    return [(source, weight) for source, weight in terms if weight]


def _related_source(rule: Rule) -> str:
    return "shuffled" if rule.shuffled else "related"


def znorm_(block: Tensor, split: int, own: Tensor) -> None:
    """Shifts and scales, in place, each row's visible and each row's infrared part by itself.

    Args:
        block: float32 [Q, G] scores, visible gallery items first.
        split: Number of visible gallery items.
        own: int64 [Q], column of the query itself, -1 where absent: outside the statistics.
    """
    rows = torch.arange(len(block), device=block.device)
    for begin, part in ((0, block[:, :split]), (split, block[:, split:])):
        column = own - begin
        present = (column >= 0) & (column < part.shape[1])
        count = (part.shape[1] - present.long()).clamp(min=1).double()
        if not part.numel():
            continue
        # float64: the statistics are then the same on every device, to the last float32 bit.
        wide = part.double()
        itself = wide[rows, column.clamp(0, part.shape[1] - 1)]
        mean = (wide.sum(dim=1) - itself.where(present, 0.0)) / count
        wide -= mean[:, None]
        itself = wide[rows, column.clamp(0, part.shape[1] - 1)]
        variance = (wide.square().sum(dim=1) - itself.square().where(present, 0.0)) / count
        # Equal scores carry no order: they become 0 rather than amplified rounding.
        deviation = variance.clamp(min=0).sqrt()
        part.copy_(wide / torch.where(deviation > _FLAT, deviation, torch.inf)[:, None])


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Products in plain float32: TF32, bfloat16 products and autocast off, then as they were."""
    with torch.autocast(device.type, enabled=False):
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch >= 2.9
            cpu = getattr(torch.backends.mkldnn, "matmul", None)
            backends: list[Any] = [torch.backends.cuda.matmul, cpu]
            before = [backend.fp32_precision for backend in backends]
            try:
                for backend in backends:
                    backend.fp32_precision = "ieee"
                yield
            finally:
                for backend, value in zip(backends, before, strict=True):
                    backend.fp32_precision = value
        else:
            precision = torch.get_float32_matmul_precision()
            try:
                torch.set_float32_matmul_precision("highest")
                yield
            finally:
                torch.set_float32_matmul_precision(precision)


def _check_widths(query: FeatureSet, gallery: FeatureSet) -> None:
    for name in ("erased", "related"):
        mine, theirs = getattr(query, name), getattr(gallery, name)
        if mine is not None and theirs is not None and mine.shape[1] != theirs.shape[1]:
            raise MixERValueError(
                f"Queries have {name} features of width {mine.shape[1]}, the gallery of width "
                f"{theirs.shape[1]}; both must come from the same model."
            )


def _check_self(
    self_index: Tensor | Sequence[int] | None, query: FeatureSet, gallery: FeatureSet
) -> Tensor:
    device = query.erased.device
    if self_index is None:
        return torch.full((len(query),), -1, device=device)
    own = torch.as_tensor(self_index, device=device)
    if own.dtype.is_floating_point or own.dtype == torch.bool:
        raise MixERTypeError(f"self_index must hold whole numbers, got {own.dtype}.")
    if own.shape != (len(query),):
        raise MixERValueError(
            f"self_index must have one entry per query, shape ({len(query)},), "
            f"got {tuple(own.shape)}."
        )
    if len(own) and not -1 <= int(own.min()) <= int(own.max()) < len(gallery):
        raise MixERValueError(
            f"self_index must lie between -1 (absent) and {len(gallery) - 1}, "
            f"got {int(own.min())} to {int(own.max())}."
        )
    return own.long()
