"""Neighbour lists over a set of images, and over the part of it that exists for a query.

"Node" is an image, counted from 0; similarity is asked for in whole rows. Neighbours are listed by
falling similarity, ties by node. A list is padded on the right with node -1, score -inf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features.validation import empty

_KEEP_BYTES = 2**30
_BLOCK_BYTES = 2**27
# Entries beyond those needed: what a list can lose to removals before its row is asked for again.
_SPARE = 48
_FAR = 8


@dataclass(frozen=True)
class Similarity:
    """The similarity of all pairs of N nodes: kept where it fits 1 GiB, else asked for again.

    Attributes:
        compute: From nodes int64 [R] to float32 [R, N].
        nodes: N.
        kept: float32 [N, N] or None.
    """

    compute: Callable[[Tensor], Tensor]
    nodes: int
    kept: Tensor | None = None

    def rows(self, index: Tensor) -> Tensor:
        """Float32 [R, N], rows of the nodes int64 [R]."""
        if self.kept is not None:
            return self.kept[index]
        block = self.compute(index)
        if block.shape != (len(index), self.nodes) or block.dtype != torch.float32:
            raise MixERValueError(
                f"similarity must return float32 [{len(index)}, {self.nodes}] for {len(index)} "
                f"nodes, got {block.dtype} {tuple(block.shape)}."
            )
        return block

    def pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Float32 [P], the similarity of the nodes ``left[p]`` and ``right[p]``, int64 [P]."""
        if self.kept is not None:
            return self.kept.view(-1)[left * self.nodes + right]
        found = torch.empty(len(left), device=left.device)
        node, of = torch.unique(left, return_inverse=True)
        of, order = of.sort()
        for part in row_blocks(len(node), self.nodes):
            block = self.rows(node[part])
            bounds = torch.searchsorted(of, of.new_tensor([part.start, part.stop])).tolist()
            mine = order[slice(*bounds)]
            found[mine] = block[of[slice(*bounds)] - part.start, right[mine]]
        return found


@dataclass(frozen=True)
class Neighbours:
    """The nearest of the nodes that may be neighbours, and the farthest of all that exist.

    Attributes:
        node: int64 [N, K], best first.
        score: float32 [N, K], their similarities.
        far_node: int64 [N, F], least similar first.
        far_score: float32 [N, F].
    """

    node: Tensor
    score: Tensor
    far_node: Tensor
    far_score: Tensor


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows, each of about 128 MiB of float32 at this width."""
    size = min(max(_BLOCK_BYTES // (4 * max(width, 1)), 64), 1024)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def survey(
    compute: Callable[[Tensor], Tensor],
    query: Tensor,
    gallery: Tensor,
    eligible: Tensor,
    count: int,
    spare: bool,
) -> tuple[Similarity, Neighbours, Tensor]:
    """One pass over the similarities of all pairs.

    Args:
        compute: From nodes int64 [R] to float32 [R, N].
        query: int64 [Q].
        gallery: int64 [G].
        eligible: bool [N], which nodes may be neighbours.
        count: Neighbours needed.
        spare: Whether to list more than that, to survive removals.

    Returns:
        The similarities, the lists of every node, and float32 [Q, G], query by gallery item.
    """
    nodes, device = len(eligible), query.device
    similarity = Similarity(compute, nodes)
    direct = empty((len(query), len(gallery)), torch.empty(0, device=device))
    keep = 4 * nodes * nodes <= _KEEP_BYTES
    kept = empty((nodes, nodes), direct) if keep else None
    count += _SPARE if spare else 0
    lists = []
    for part in row_blocks(nodes, nodes):
        index = torch.arange(part.start, part.stop, device=device)
        block = similarity.rows(index)
        at = ((query >= part.start) & (query < part.stop)).nonzero().flatten()
        direct[at] = block[(query[at] - part.start)[:, None], gallery]
        if kept is not None:
            kept[part] = block
        far = min(_FAR, nodes) if spare else 1
        lists.append(_scan(block, eligible, None, count, far))
    near = Neighbours(*(torch.cat(column) for column in zip(*lists, strict=True)))
    return Similarity(compute, nodes, kept), near, direct


def _scan(
    block: Tensor, eligible: Tensor, alive: Tensor | None, count: int, far: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of ``Neighbours`` for the rows of a block [R, N]."""
    low = block if alive is None else block.masked_fill(~alive, torch.inf)
    if far == 1:
        far_score, far_node = low.min(dim=1, keepdim=True)
    else:
        far_score, far_node = low.topk(far, dim=1, largest=False)
    high = block if eligible.all() else block.masked_fill(~eligible, -torch.inf)
    node, score = largest(high, count)
    return node, score, far_node, far_score


def largest(block: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Nodes int64 and scores float32 [R, count], best first, ties by node; -inf is no entry."""
    width = block.shape[1]
    score, node = block.topk(min(count + 1, width), dim=1)
    equal = (score[:, 1:] == score[:, :-1]) & (score[:, 1:] > -torch.inf)
    # topk leaves open which of equals it takes, and in what order.
    tied = equal.any(dim=1).nonzero().flatten()
    if len(tied):
        order = node[tied].sort(dim=1)
        best = score[tied].gather(1, order.indices).sort(dim=1, descending=True, stable=True)
        node[tied], score[tied] = order.values.gather(1, best.indices), best.values
    if width > count:
        for rows in torch.split(equal[:, -1].nonzero().flatten(), 256):
            best = block[rows].sort(dim=1, descending=True, stable=True)
            node[rows], score[rows] = (x[:, : count + 1] for x in (best.indices, best.values))
    node, score = node[:, :count], score[:, :count]
    node = node.masked_fill(score == -torch.inf, -1)
    missing = count - node.shape[1]
    if missing > 0:
        node = torch.nn.functional.pad(node, (0, missing), value=-1)
        score = torch.nn.functional.pad(score, (0, missing), value=-torch.inf)
    return node.contiguous(), score.contiguous()


def restrict(
    similarity: Similarity,
    near: Neighbours,
    alive: Tensor,
    eligible: Tensor,
    needed: Tensor,
    count: int,
) -> Neighbours:
    """The lists when only some nodes exist.

    Args:
        similarity: Of all nodes.
        near: Lists over all nodes.
        alive: bool [N], the nodes that exist.
        eligible: bool [N], those of them that may be neighbours.
        needed: bool [N], whose lists are needed; the others' may be too short.
        count: Neighbours needed.

    Returns:
        Lists of ``count`` neighbours and the one farthest node.
    """
    there = eligible[near.node.clamp(min=0)] & (near.node >= 0)
    place = there.cumsum(dim=1) - 1
    place = place.where(there & (place < count), count)  # the rest goes into a column too many
    node = near.node.new_full((len(alive), count + 1), -1).scatter_(1, place, near.node)
    score = near.score.new_full(node.shape, -torch.inf).scatter_(1, place, near.score)
    far_there = alive[near.far_node]
    far_score, at = near.far_score.where(far_there, torch.inf).min(dim=1, keepdim=True)
    fields = (
        node[:, :count].contiguous(),
        score[:, :count].contiguous(),
        near.far_node.gather(1, at),
        far_score,
    )
    short = there.sum(dim=1) < min(count, int(eligible.sum()))
    short = ((short | ~far_there.any(dim=1)) & needed).nonzero().flatten()
    for part in row_blocks(len(short), len(alive)):
        again = _scan(similarity.rows(short[part]), eligible, alive, count, 1)
        for field, value in zip(fields, again, strict=True):
            field[short[part]] = value
    return Neighbours(*fields)


@dataclass(frozen=True)
class Universes:
    """For each of B queries what exists for it: a common base and, where it lacks it, the query.

    Attributes:
        base: Lists over the common base.
        query: int64 [B].
        scores: float32 [B, N], the similarities of each query.
        rank: int64 [B, N], where the query enters the list of each node; at its end: not at all.
        joins: bool [B], whether the query comes on top of the base, for itself only.
    """

    base: Neighbours
    query: Tensor
    scores: Tensor
    rank: Tensor
    joins: Tensor

    def first(self, at: Tensor, node: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The ``count`` nearest of each node, in the universe of each query.

        ``at`` and ``node`` are int64 [P], the index of the query and the node; ``count`` is at most
        the length of the base's lists. Returns nodes int64 and scores float32 [P, count].
        """
        nodes, scores = self.base.node[node, :count], self.base.score[node, :count]
        rank = self.rank[at, node]
        rows = (rank < count).nonzero().flatten()
        if len(rows):
            rank, at, node = rank[rows, None], at[rows], node[rows]
            place = torch.arange(count, device=rank.device)
            before = (place - (place > rank).long()).clamp(min=0)
            is_query = place == rank
            own = self.scores[at, node][:, None]
            nodes[rows] = torch.where(
                is_query, self.query[at][:, None], nodes[rows].gather(1, before)
            )
            scores[rows] = torch.where(is_query, own, scores[rows].gather(1, before))
        return nodes, scores

    def lowest(self, at: Tensor, node: Tensor) -> Tensor:
        """Float32 [P], the lowest similarity of each node in the universe of each query."""
        low = self.base.far_score[node, 0]
        return torch.minimum(low, self.scores[at, node].where(self.joins[at], torch.inf))


def universes(similarity: Similarity, base: Neighbours, query: Tensor, joins: Tensor) -> Universes:
    """What exists for each of B queries ``query``, int64 [B].

    ``base`` are the lists over what exists for all of them; ``joins``, bool [B], says which query
    comes on top of it, for itself only.
    """
    scores = similarity.rows(query)
    rank = torch.full(scores.shape, base.node.shape[1], device=scores.device)
    at, node = ((scores >= base.score[:, -1]) & joins[:, None]).nonzero().unbind(dim=1)
    own, theirs, listed = scores[at, node][:, None], base.score[node], base.node[node]
    ahead = (theirs > own) | ((theirs == own) & (listed < query[at][:, None]))
    rank[at, node] = (ahead & (listed >= 0)).sum(dim=1)
    return Universes(base, query, scores, rank, joins)
