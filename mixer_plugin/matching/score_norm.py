"""Statistics of the cosines of each image with a gallery, and scores standardised by them.

Symmetric score normalisation (S-norm of speaker verification: Kenny, "Bayesian speaker
verification with heavy-tailed priors", Odyssey 2010), here for each kind of pair by itself. With
mean and population standard deviation of the cosines of x and the cohort's items of modality m, x
itself left out, written mu(x, m) and sigma(x, m), the cosine c of q and g becomes

    1/2 [(c - mu(q, m_g)) / sigma(q, m_g) + (c - mu(g, m_q)) / sigma(g, m_q)].

What a score across modalities is worth beside one within is said by ``mixer_plugin.matching.lift``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.lift import fit_lift, sampled
from mixer_plugin.matching.normalized import Lift, UnitSource
from mixer_plugin.matching.rules import Rule
from mixer_plugin.matching.similarity import FLAT, terms

_BLOCK = 2**22  # float64 numbers worked on at a time, 32 MiB
# Below this variance the rounding of its two parts, about 1e-16, is no longer small beside it.
_DOUBTFUL = 1e-8


@dataclass(frozen=True)
class Moments:
    """Mean float64 [D] and covariance float64 [D, D] (population) of one normalised feature."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class Cohort:
    """The gallery that statistics are of.

    Attributes:
        source: Its features.
        rows: Per modality int64 [n], its rows in ``source``.
        rules: The rules that are standardised.
        moments: By source and modality, where there are more items than dimensions: mean and
            variance of any image's cosines then follow from them, without the items.
        lifts: By rule, what it does to scores across modalities.
    """

    source: UnitSource
    rows: tuple[Tensor, ...]
    rules: tuple[Rule, ...]
    moments: dict[tuple[str, int], Moments]
    lifts: Mapping[Rule, Lift] = field(default_factory=dict)


def find_cohort(source: UnitSource, rows: Tensor, rules: Iterable[Rule]) -> Cohort:
    """Prepares the parts of a gallery that the statistics of every image need.

    Args:
        source: Features.
        rows: int64 [G], the gallery's rows in it.
        rules: Those that are not standardised ask for nothing.
    """
    modality = source.features.modality[rows]
    chosen = tuple(rule for rule in rules if rule.standardised)
    held = tuple(rows[modality == side] for side in Modality)
    moments = {}
    for name in source.sources:
        for side in Modality:
            if _query_modalities(chosen, name, side) and len(held[side]) > source.width(name):
                moments[name, int(side)] = _find_moments(_only(source, name), name, held[side])
    cohort = Cohort(source, held, chosen, moments)
    sample = sampled(held)
    there = standardised(source, cohort, all_rows(source.features), sample)
    return replace(cohort, lifts={rule: fit_lift(there, sample, rule) for rule in chosen})


def standardised(
    source: UnitSource, cohort: Cohort, own: Tensor, rows: Tensor | None = None
) -> UnitSource:
    """The same features with slope and offset that standardise the cosines of each row.

    The result also has the cohort's lifts.

    Where the cohort holds no item of an image's own modality, no gallery item has statistics for
    it: the image's own side is then the whole score, not half of it.

    Args:
        source: N images, centred as the cohort is.
        cohort: The gallery.
        own: int64 [N], each image's own row in the cohort's source, -1 where it is not in the
            cohort; it is left out of the image's statistics.
        rows: int64 [M], the images that will be scored; None: all.
    """
    made = _scaled(
        source,
        cohort.rules,
        [len(held) > 0 for held in cohort.rows],
        lambda name, side, block: _statistics(source, name, block, cohort, side, own[block]),
        rows,
    )
    return replace(made, lifts=cohort.lifts)


def all_moments(cohort: Cohort) -> dict[tuple[str, int], Moments]:
    """The moments by source and modality, also where there are few items; none of an absent one."""
    return {
        (name, int(side)): cohort.moments.get((name, int(side)))
        or _find_moments(_only(cohort.source, name), name, cohort.rows[side])
        for name in cohort.source.sources
        for side in Modality
        if len(cohort.rows[side]) and _query_modalities(cohort.rules, name, side)
    }


def standardised_by(
    source: UnitSource,
    moments: dict[tuple[str, int], Moments],
    lifts: Mapping[Rule, Lift],
) -> UnitSource:
    """``standardised`` for images outside the cohort, from the moments of the cohort alone.

    Where the cosines of an image vary so little that the moments leave it in doubt (deviation
    below 1e-4 times the items' root mean square distance from their mean), they count as equal:
    there are no items to ask.

    Args:
        source: N images, centred as the cohort was, none of them in it.
        moments: ``all_moments`` of the cohort, on any device.
        lifts: The cohort's, of each of its rules.
    """

    def statistics(name: str, side: int, block: Tensor) -> tuple[Tensor, Tensor]:
        value = _only(source, name).rows(block).parts[name].double()
        known = moments[name, side]
        there = Moments(known.mean.to(value.device), known.covariance.to(value.device))
        # The number of items matters to items only.
        absent = value.new_full((len(value),), torch.nan)
        mean, variance = by_moments(value, there, 2, absent)
        # Without items to leave out, variances are as exact as the trace times 1e-16.
        limit = _DOUBTFUL * there.covariance.trace()
        return mean, torch.where(variance <= limit, 0.0, variance).sqrt_()

    present = [any(side == held for _, held in moments) for side in Modality]
    return replace(_scaled(source, tuple(lifts), present, statistics), lifts=lifts)


def _scaled(
    source: UnitSource,
    rules: Sequence[Rule],
    held: Sequence[bool],
    statistics: Callable[[str, int, Tensor], tuple[Tensor, Tensor]],
    rows: Tensor | None = None,
) -> UnitSource:
    """The same features with slopes and offsets.

    ``held`` says by modality whether the cohort has items of it. ``statistics`` takes source,
    modality of items and some images, int64 [B], and gives mean and deviation of their cosines,
    float64 [B] each.
    """
    modality = source.features.modality
    present = torch.tensor(held, device=modality.device)
    share = torch.where(present[modality], 0.5, 1.0).double()
    wanted = torch.ones_like(modality, dtype=torch.bool)
    if rows is not None:
        wanted.zero_()[rows] = True
    scaling = {}
    for name in source.sources:
        made = share.new_zeros((len(modality), len(Modality), 2), dtype=torch.float32)
        for side in Modality:
            queries = _query_modalities(rules, name, side)
            if not queries or not held[side]:
                continue
            counts = torch.isin(modality, modality.new_tensor(queries))
            index = (counts & wanted).nonzero().flatten()
            for block in _blocks(index, source.width(name)):
                mean, deviation = statistics(name, int(side), block)
                # Equal cosines carry no order: they count 0.
                slope = torch.where(deviation > FLAT, share[block] / deviation, 0.0)
                made[block, side] = torch.stack([slope, slope * mean], dim=1).float()
        scaling[name] = made
    return replace(source, scaling=scaling)


def all_rows(features: FeatureSet) -> Tensor:
    """int64 [N], where the features are."""
    return torch.arange(len(features), device=features.erased.device)


def _query_modalities(rules: Iterable[Rule], name: str, side: int) -> list[int]:
    """Modalities of the images whose cosines with items of one modality count in some rule."""
    return [
        int(query)
        for query in Modality
        if any(name == source for rule in rules for source, _ in terms(rule, query, side))
    ]


def _only(source: UnitSource, name: str) -> UnitSource:
    return replace(source, sources=(name,))


def _blocks(rows: Tensor, width: int) -> list[Tensor]:
    """Blocks of rows whose float64 vectors of this width take 32 MiB at most."""
    size = max(_BLOCK // width, 1)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _find_moments(source: UnitSource, name: str, rows: Tensor) -> Moments:
    blocks = _blocks(rows, source.width(name))
    total = sum(source.rows(block).parts[name].sum(dim=0, dtype=torch.float64) for block in blocks)
    assert isinstance(total, Tensor)
    mean = total / len(rows)
    covariance = mean.new_zeros((len(mean), len(mean)))
    for block in blocks:
        # About the mean: of equal items exactly nothing is left.
        centred = source.rows(block).parts[name].double().sub_(mean)
        covariance.addmm_(centred.T, centred)
    return Moments(mean, covariance.div_(len(rows)))


def _statistics(
    source: UnitSource, name: str, block: Tensor, cohort: Cohort, side: int, own: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the cosines of some images with the cohort's items of a modality.

    Returns:
        Two float64 [B].
    """
    items, rows = _only(cohort.source, name), cohort.rows[side]
    column = torch.full_like(cohort.source.features.modality, -1)
    column[rows] = torch.arange(len(rows), device=rows.device)
    own = torch.where(own >= 0, column[own.clamp(min=0)], -1)
    value = _only(source, name).rows(block).parts[name].double()
    moments = cohort.moments.get((name, int(side)))
    if moments is None:
        mean, variance = by_products(value, items, rows, own)
    else:
        itself = items.rows(rows[own.clamp(min=0)]).parts[name].double()
        cosine = torch.where(own >= 0, (value * itself).sum(dim=1), torch.nan)
        mean, variance = by_moments(value, moments, len(rows), cosine)
        doubtful = (variance < _DOUBTFUL).nonzero().flatten()
        if len(doubtful):
            mean[doubtful], variance[doubtful] = by_products(
                value[doubtful], items, rows, own[doubtful]
            )
    return mean, variance.clamp_(min=0).sqrt_()


def by_moments(value: Tensor, moments: Moments, count: int, own: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of cosines with all items but an image itself, from the items' moments.

    Args:
        value: float64 [B, D].
        moments: Of the items.
        count: Number of items, more than one.
        own: float64 [B], the cosine of each image with itself as an item, NaN where it is none.

    Returns:
        Two float64 [B]; variances have an absolute error of about 1e-16.
    """
    mean = value @ moments.mean
    variance = ((value @ moments.covariance) * value).sum(dim=1)
    known, others = ~own.isnan(), count - 1
    reduced = (count * mean - own) / others
    # One value fewer (Welford's update, backwards).
    left = (count * variance - (own - mean) * (own - reduced)) / others
    return torch.where(known, reduced, mean), torch.where(known, left, variance)


def by_products(
    value: Tensor, items: UnitSource, rows: Tensor, own: Tensor
) -> tuple[Tensor, Tensor]:
    """The same from the cosines themselves, in blocks of items.

    Args:
        value: float64 [B, D].
        items: One normalised feature.
        rows: int64 [n], the items' rows.
        own: int64 [B], which of the items each image is, -1 where none.

    Returns:
        Two float64 [B]; without any other item 0 and 0.
    """
    count, mean, sums = (value.new_zeros(len(value)) for _ in range(3))
    (name,) = items.sources
    done = 0
    for block in _blocks(rows, max(value.shape)):
        cosines = value @ items.rows(block).parts[name].double().T
        column = own - done
        at = ((column >= 0) & (column < len(block))).nonzero().flatten()
        cosines[at, column[at]] = 0.0
        added = torch.full_like(count, len(block))
        added[at] -= 1
        part = cosines.sum(dim=1) / added.clamp(min=1)
        cosines.sub_(part[:, None])[at, column[at]] = 0.0
        # Two parts make a whole (Chan, Golub and LeVeque): no difference of large sums.
        total = (count + added).clamp(min=1)
        sums += cosines.square_().sum(dim=1) + (part - mean).square() * count * added / total
        mean += (part - mean) * added / total
        count += added
        done += len(block)
    return mean, sums / count.clamp(min=1)
