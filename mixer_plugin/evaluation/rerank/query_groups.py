"""Groups queries that see the same images, apart from the query itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Queries with a common base of images.

    Attributes:
        rows: int64 [B], which of the queries.
        alive: bool [N], the base.
        inserted: Whether for each query the query itself comes on top of the base. Such queries do
            not see each other.
    """

    rows: Tensor
    alive: Tensor
    inserted: bool


def groups(query: Tensor, removed: Tensor | None, nodes: int) -> Iterator[Group]:
    """Groups the queries, int64 [Q], by the images they see; each query sees itself.

    ``removed`` is bool [Q, ``nodes``] or None. Every query is in one group.
    """
    rows = torch.arange(len(query), device=query.device)
    if removed is None:
        yield Group(rows, torch.ones(nodes, dtype=torch.bool, device=query.device), False)
        return
    removed = removed.clone()
    removed[rows, query] = False
    alone = []
    for members in _alike(removed):
        if len(members) == 1:
            alone.append(members)
        else:
            yield Group(members, ~removed[members[0]], False)
    if alone:
        left = torch.cat(alone)
        removed[left, query[left]] = True
        for members in _alike(removed[left]):
            yield Group(left[members], ~removed[left[members[0]]], True)


def _alike(mask: Tensor) -> Iterator[Tensor]:
    """Int64 vectors: the rows of bool [R, N] that are equal."""
    packed = np.packbits(mask.cpu().numpy(), axis=1)
    _, number = np.unique(packed, axis=0, return_inverse=True)
    number = number.reshape(-1)
    order = np.argsort(number, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        yield torch.from_numpy(members).to(mask.device)
