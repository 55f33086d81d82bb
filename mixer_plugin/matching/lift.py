"""How much a standardised score of a pair across modalities is worth beside one within.

Where scores of wrong pairs have mean 0 and deviation 1, and those of right pairs a mean m, the
logarithm of the likelihood ratio of right and wrong is m z - m²/2 (normal distributions of one
width). With m within a modality and a m across, divided by m and raised by m/2, that is z within,
and across

    a z + m (1 - a²) / 2

The worse matching across modalities is, the flatter its scores count; so they meet those within a
modality where both tell as much. Without labels a is not known. Right pairs,
and the people who look alike, pull the third moment of all scores up, so a is taken to be the
ratio of the third moments across and within, from the gallery's own pairs; m is a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixer_plugin.matching.normalized import PLAIN, Lift, UnitSource, present
from mixer_plugin.matching.rules import Rule
from mixer_plugin.matching.similarity import score_blocks, tile

# Chosen on validation identities, with networks whose cross mAP was 9 to 35 %. With a smaller mean,
# or below the least slope, Mix-ID loses.
RIGHT = 3.0
LEAST, MOST = 0.5, 1.0
_SAMPLE = 1000  # images of a modality at most
_LEANS = 0.05  # third moment within a modality that says something; of normal scores it is 0


def lift_of(slope: float) -> Lift:
    """The lift of a slope a, brought into [0.5, 1]."""
    slope = min(max(slope, LEAST), MOST)
    return Lift(slope, RIGHT * (1 - slope**2) / 2)


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
        Slope and offset; 1 and 0, where both kinds count alike, if there are no pairs of a kind or
        scores within a modality do not lean to the right.
    """
    unit, modality = source.rows(sample), source.features.modality[sample]
    cams = source.features.cams[sample]
    tiles = tile(int((modality == 0).sum()), len(sample), modality.device)
    # By kind (across, within and another camera, within and the same one): sum of cubes, pairs.
    found = modality.new_zeros((3, 2), dtype=torch.float64)
    for side in present(modality):
        rows = (modality == side).nonzero().flatten()
        ((_, block),) = score_blocks(source.rows(sample[rows]), unit, tiles, side, {"": rule})
        block[torch.arange(len(rows), device=rows.device), rows] = 0.0  # an image with itself
        cubes = block.double().pow_(3)
        within = modality[None, :] == side
        same = within & (cams[rows, None] == cams[None, :])
        for kind, mask in enumerate((~within.expand_as(same), within & ~same, same)):
            found[kind, 0] += cubes[mask].sum()
            found[kind, 1] += mask.sum()
        found[2, 1] -= len(rows)
    across, other, same = found.tolist()
    if not other[1]:
        other = same
    if not across[1] or not other[1] or other[0] / other[1] < _LEANS:
        return PLAIN
    return lift_of(across[0] / across[1] / (other[0] / other[1]))
