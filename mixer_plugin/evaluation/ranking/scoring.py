"""Where the scores that are ranked come from: products of features, or a matrix as given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.distributed.processes import ALONE, Share
from mixer_plugin.evaluation.ranking.gallery_layout import Gallery
from mixer_plugin.evaluation.settings import Groups
from mixer_plugin.matching.normalized import UnitSource
from mixer_plugin.matching.rules import Rule
from mixer_plugin.matching.similarity import score_blocks, znorm_
from mixer_plugin.matching.workspace import Workspace

Key = tuple[str, str | None]  # rule and calibration


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


# The scores of some queries, in the columns that a process holds: per key float32 [Q, columns],
# which lasts until the next is asked for.
Score = Callable[[Queries, Workspace], Iterator[tuple[Key, Tensor]]]


def cosine_scores(
    source: UnitSource,
    gallery: Gallery,
    rules: dict[str, Rule],
    calibrations: Sequence[str | None],
    share: Share = ALONE,
) -> Score:
    """Scores from products of features.

    Args:
        source: Features of queries and gallery.
        gallery: The columns; this process multiplies those it holds.
        rules: Rules by name; they share the products.
        calibrations: None or ``znorm`` for score matrices as made, or standardised per row.
            (``center`` changes the features: then it is ``source`` that differs.)
        share: The processes that hold the other columns.
    """
    items = source.rows(gallery.rows)
    standardise = "znorm" in calibrations

    def score(queries: Queries, workspace: Workspace) -> Iterator[tuple[Key, Tensor]]:
        own = own_column(queries, gallery) if standardise else None
        asked = source.rows(queries.rows)
        for name, block in score_blocks(
            asked, items, gallery.tiles, queries.modality, rules, workspace
        ):
            if None in calibrations:
                yield (name, None), block
            if own is not None:
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


def given_scores(key: Key, matrix: Tensor, rows: Tensor) -> Score:
    """Scores that were computed before.

    Args:
        key: What they are called.
        matrix: float32 [Q, columns], in the order of the gallery's columns.
        rows: int64 [Q], the row in the feature set of each of its queries, all different.
    """
    known, order = rows.sort()

    def score(queries: Queries, workspace: Workspace) -> Iterator[tuple[Key, Tensor]]:
        yield key, matrix[order[torch.searchsorted(known, queries.rows)]]

    return score
