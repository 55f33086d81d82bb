"""How much a standardised score of a pair across modalities is worth beside one within.

Where scores of wrong pairs have mean 0 and deviation 1, and those of right pairs a mean m, the
logarithm of the likelihood ratio of right and wrong is m z - m²/2 (normal distributions of one
width). With m within a modality and a m across, divided by m and raised by m/2, that is z within,
and across

    a z + m (1 - a²) / 2

The worse matching across modalities is, the flatter its scores count; so they meet those within a
modality where both tell as much. For the same reason a feature counts in proportion to its own m
where both features score a pair.

Without labels a and m are not known, and are taken from the gallery's own pairs. Right pairs, and
the people who look alike, pull the third moment of all scores up: a is the ratio of the third
moments across and within. The best match of an image in another camera is mostly right: m is the
mean of these best scores, less what the best is above the mean. From 3 on m counts as 3. Below,
people who look alike make more of the third moments, more alike across and within: a is m/3 of
their ratio.

Related cosines of a network that knows little are small, and the rule without standardising then
puts pairs across first. That is wrong in a mixed gallery, but where no pair within can be right
(Mix-ID), it is better than any likelihood ratio. There the offset is raised towards that rule's
own, as far as the best matches across count nearly as much as those within.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mixer_plugin.features import Modality
from mixer_plugin.matching.normalized import Lift, UnitSource, present
from mixer_plugin.matching.rules import SOURCES, Rule
from mixer_plugin.matching.similarity import score_blocks, tile

# Chosen on validation identities, with networks whose cross mAP was 9 to 45 %.
WEAKEST, RIGHT = 0.5, 3.0  # least and most mean of right pairs
ABOVE = 0.35  # what the best of an image's right pairs is above their mean
LEAST, MOST = 0.5, 1.0  # slope; below the least, Mix-ID loses
NEARLY = 0.9  # of the best within, where the rule without standardising puts pairs across first
_SAMPLE = 1000  # images of a modality at most
_EQUAL = 1e-6  # deviation of cosines that differ by rounding
_LEANS = 0.05  # third moment within a modality that says something; of normal scores it is 0


class Kind(NamedTuple):
    """Scores of one kind of pair: mean, deviation, third moment, mean of each image's best."""

    mean: float
    deviation: float
    cube: float
    best: float


def mean_of_right(within: Kind | None) -> float:
    """Mean score of right pairs within a modality, brought into [0.5, 3]."""
    return RIGHT if within is None else min(max(within.best - ABOVE, WEAKEST), RIGHT)


def slope_and_offset(
    across: Kind | None, within: Kind | None, plain: tuple[Kind | None, Kind | None]
) -> tuple[float, float]:
    """Slope and offset of scores across modalities.

    They are 1 and 0 if there are no pairs of a kind, or scores within a modality do not differ.

    Args:
        across: Standardised scores across modalities.
        within: The same within.
        plain: Both of the rule without standardising.
    """
    there, here = plain
    if not (across and within and there and here and within.deviation):
        return 1.0, 0.0
    mean, slope = mean_of_right(within), LEAST
    if within.cube >= _LEANS:
        slope = min(max(across.cube / within.cube * mean / RIGHT, LEAST), MOST)
    offset = mean * (1 - slope**2) / 2
    apart = (there.mean - here.mean) / max(here.deviation, _EQUAL)
    return slope, max(offset, min(apart, NEARLY * within.best - slope * across.best))


def sampled(rows: tuple[Tensor, ...]) -> Tensor:
    """Of each modality's rows every n-th, so that at most 1,000 are left, visible ones first."""
    return torch.cat([held[:: max(-(-len(held) // _SAMPLE), 1)] for held in rows])


def fit_lift(source: UnitSource, sample: Tensor, rule: Rule) -> Lift:
    """The lift of a standardised rule, from pairs of the gallery.

    Pairs within a modality are those of different cameras, whose images are no near copies; all of
    them where there are no such pairs.

    Args:
        source: The gallery, standardised.
        sample: int64 [n], rows of it, visible ones first.
        rule: Rule.

    Returns:
        Slope and offset as of ``slope_and_offset``; by feature that counts, its m.
    """
    alone = {
        name: replace(rule, visible=only, infrared=only)
        for name, only in zip(SOURCES[:2], ((1.0,), (0.0, 1.0)), strict=True)
        if name in rule.sources
    }
    seen = _kinds(source, sample, {**alone, "plain": replace(rule, standardised=False)})
    lift = Lift(1.0, 0.0, **{name: mean_of_right(seen[name][1]) for name in alone})
    ((across, within),) = _kinds(replace(source, lifts={rule: lift}), sample, {"": rule}).values()
    slope, offset = slope_and_offset(across, within, seen["plain"])
    return lift._replace(slope=slope, offset=offset)


def _kinds(
    source: UnitSource, sample: Tensor, rules: dict[str, Rule]
) -> dict[str, tuple[Kind | None, Kind | None]]:
    """By rule, scores of pairs across and within a modality; None where there are no pairs."""
    unit, modality = source.rows(sample), source.features.modality[sample]
    cams = source.features.cams[sample]
    split = int((modality == Modality.VISIBLE).sum())
    tiles = tile(split, len(sample), modality.device)
    columns = (slice(split), slice(split, len(sample)))
    apart = any(bool((cams[held] != cams[held][:1]).any()) for held in columns)
    # By kind: pairs, sums of their scores, squares and cubes; images with such pairs, sum of their
    # best scores.
    sums = {name: modality.new_zeros((2, 6), dtype=torch.float64) for name in rules}
    for side in present(modality):
        own, others = columns[side], columns[1 - side]
        within = cams[own, None] != cams[own]
        if not apart:
            within = ~torch.eye(len(within), dtype=torch.bool, device=within.device)
        across = within.new_ones((len(within), len(sample) - len(within)))
        for name, block in score_blocks(source.rows(sample[own]), unit, tiles, side, rules):
            sums[name][0] += _sums(block[:, others].double(), across)
            sums[name][1] += _sums(block[:, own].double(), within)
    found = {name: both.tolist() for name, both in sums.items()}
    return {name: (_kind(across), _kind(within)) for name, (across, within) in found.items()}


def _sums(scores: Tensor, mask: Tensor) -> Tensor:
    images = mask.any(dim=1)
    best = scores.where(mask, -torch.inf)[images].amax(dim=1) if len(scores.T) else scores[:0, :0]
    value = scores.where(mask, 0.0)
    square = value * value
    made = [mask, value, square, square * value, images, best]
    return torch.stack([each.sum(dtype=torch.float64) for each in made])


def _kind(sums: list[float]) -> Kind | None:
    count, total, squares, cubes, images, best = sums
    if not count:
        return None
    mean = total / count
    return Kind(mean, max(squares / count - mean**2, 0.0) ** 0.5, cubes / count, best / images)
