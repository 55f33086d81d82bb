"""Sources of scores: products of features, or a given matrix."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.distributed.processes import ALONE, Share
from mixer_plugin.evaluation.ranking.gallery_layout import Gallery
from mixer_plugin.evaluation.settings import Groups
from mixer_plugin.matching.normalized import UnitSource
from mixer_plugin.matching.rules import System, check_rules
from mixer_plugin.matching.similarity import score_blocks, znorm_
from mixer_plugin.matching.workspace import Workspace


@dataclass(frozen=True)
class Queries:
    """Queries of one modality.

    Attributes:
        rows: int64 [Q], row in the feature set.
        group: int64 [Q].
        identity: int64 [Q], index of the identity.
        modality: Their modality.
    """

    rows: Tensor
    group: Tensor
    identity: Tensor
    modality: int

    @classmethod
    def of_rows(
        cls,
        rows: NDArray[np.int64],
        groups: Groups,
        identity: NDArray[np.int64],
        modality: int,
        device: torch.device,
    ) -> Queries:
        """Those of some rows, all of one modality; groups and identities are of all rows."""
        row, group, name = (
            torch.from_numpy(values).to(device)
            for values in (rows, groups.of_row[rows], identity[rows])
        )
        return cls(row, group, name, modality)

    def part(self, index: Tensor | slice) -> Queries:
        """Some of the queries."""
        return Queries(self.rows[index], self.group[index], self.identity[index], self.modality)


# Features to multiply; and by (rule, calibration), as made of the products, the system meant.
Source = tuple[UnitSource, dict[System, System]]
# The scores of some queries, in the columns that a process holds: per key float32 [Q, columns],
# which lasts until the next is asked for.
Score = Callable[[Queries, Workspace], Iterator[tuple[System, Tensor]]]


def cosine_scores(
    source: UnitSource, gallery: Gallery, systems: Collection[System], share: Share = ALONE
) -> Score:
    """Scores from products of features.

    Args:
        source: Features of queries and gallery.
        gallery: The columns; this process multiplies those it holds.
        systems: Rules, which share the products, with calibration None (score matrices as made) or
            ``znorm`` (standardised per row). (``center`` changes the features: then it is
            ``source`` that differs.)
        share: The processes that hold the other columns.
    """
    items = source.rows(gallery.rows)
    rules = check_rules([rule for rule, _ in systems])
    standardise = any(calibration == "znorm" for _, calibration in systems)

    def score(queries: Queries, workspace: Workspace) -> Iterator[tuple[System, Tensor]]:
        own = own_column(queries, gallery) if standardise else None
        asked = source.rows(queries.rows)
        for name, block in score_blocks(
            asked, items, gallery.tiles, queries.modality, rules, workspace
        ):
            if (name, None) in systems:
                yield (name, None), block
            if own is not None and (name, "znorm") in systems:
                znorm_(block, gallery.tiles, own, of=gallery.of, total=share.sum)
                yield (name, "znorm"), block

    return score


def own_column(queries: Queries, gallery: Gallery) -> Tensor:
    """Int64 [Q], the column of each query itself, -1 where it is not among those held."""
    if not len(gallery.rows):
        return torch.full_like(queries.rows, -1)
    rows, order = gallery.rows.sort()
    place = torch.searchsorted(rows, queries.rows).clamp(max=len(rows) - 1)
    return torch.where(rows[place] == queries.rows, order[place], -1)


def given_scores(system: System, matrix: Tensor, rows: Tensor) -> Score:
    """Scores read from a given matrix.

    ``matrix`` is float32 [Q, columns], in the order of the gallery's columns; ``rows`` int64 [Q],
    the row in the feature set of each of its queries, all different.
    """
    known, order = rows.sort()

    def score(queries: Queries, workspace: Workspace) -> Iterator[tuple[System, Tensor]]:
        yield system, matrix[order[torch.searchsorted(known, queries.rows)]]

    return score
