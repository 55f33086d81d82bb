"""k-reciprocal encoding without any matrix of all pairs.

Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017. With
squared distances d = 2 - 2 s, each row divided by its maximum:

    R(i, k)  = the x among the k + 1 nearest of i with i among the k + 1 nearest of x
    R*(i)    = R(i, k1), and every R(c, k1/2), c in R(i, k1), more than 2/3 of which is in R(i, k1)
    V(i, x)  = exp(-d(i, x)) for x in R*(i), each row divided by its sum
    V(i)     = the mean of V over the k2 nearest of i
    J(q, g)  = 1 - m / (2 - m),  m = sum_x min(V(q, x), V(g, x))
    d*(q, g) = (1 - weight) J(q, g) + weight d(q, g)

(k + 1, because an image lists itself, and "more than", as in the public implementations.)

All sets have a few dozen members, so they are kept as lists. Queries for which the same nodes exist
share V. A query that is there for itself only (its fellows are removed for it) changes the lists
around it; the part of V that its own V meets is made for each such query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mixer_plugin.evaluation.rerank.neighbours import Neighbours, Similarity, Universes, universes
from mixer_plugin.evaluation.rerank.options import KReciprocal
from mixer_plugin.evaluation.rerank.query_groups import Group

_CELLS = 2**22
_QUERIES = 32
# The least distance to divide by: where all images are alike, there is no farthest.
_FLAT = 1e-6


def k_reciprocal(
    method: KReciprocal,
    similarity: Similarity,
    base: Neighbours,
    query: Tensor,
    group: Group,
    gallery: Tensor,
    result: Tensor,
) -> None:
    """Re-ranks, in place, the scores of queries that share a base.

    Args:
        method: Sizes of the lists, and the weight of the distance.
        similarity: Of all nodes.
        base: Lists over the base, of all its nodes and of the group's queries.
        query: int64 [Q].
        group: The queries to re-rank.
        gallery: int64 [G], all distinct.
        result: float32 [Q, G], similarities; afterwards (1 - weight) (1 - J) - weight d in the
            group's rows.
    """
    # Python rounds half to even, as the public code does.
    sizes = (method.k1 + 1, round(method.k1 / 2) + 1)
    mutual = tuple(_mutual(base.node[:, :count]) for count in sizes)
    if group.inserted:
        for rows in torch.split(group.rows, _QUERIES):
            each = universes(similarity, base, query[rows], torch.ones_like(rows).bool())
            graph = _graph(each, mutual)
            _blend(method, result, rows, each, _one_by_one(graph, method, similarity, gallery))
        return
    encoded = _encode_all(method, similarity, base, mutual, group.alive)
    columns = _by_column(encoded, gallery)
    for rows in torch.split(group.rows, 4 * _QUERIES):
        each = universes(similarity, base, query[rows], torch.zeros_like(rows).bool())
        overlap = _overlap(encoded, columns, query[rows], len(gallery))
        _blend(method, result, rows, each, overlap)


def _blend(
    method: KReciprocal, direct: Tensor, rows: Tensor, each: Universes, overlap: Tensor
) -> None:
    at = torch.arange(len(rows), device=rows.device)
    farthest = (2 - 2 * each.lowest(at, each.query)).clamp(min=_FLAT)
    distance = (2 - 2 * direct[rows]) / farthest[:, None]
    # 1 - J rather than J: most are 0, and the distances between them are not rounded away.
    direct[rows] = (1 - method.weight) * overlap / (2 - overlap) - method.weight * distance


def _mutual(node: Tensor) -> Tensor:
    """Int64 [N, k], the lists int64 [N, k] with -1 for whoever does not list the node in turn."""
    result = torch.empty_like(node)
    index = torch.arange(len(node), device=node.device)
    for rows in torch.split(index, max(_CELLS // node.shape[1] ** 2, 1)):
        mine = node[rows]
        listed = (node[mine.clamp(min=0)] == rows[:, None, None]).any(dim=2)
        result[rows] = mine.where(listed & (mine >= 0), -1)
    return result


@dataclass(frozen=True)
class _Mutual:
    """R(i, k) in the universe of each of B queries.

    Attributes:
        each: The universes.
        base: int64 [N, k], R in the base.
        evicted: int64 [B, N], whom the query pushes out of each node's list, or -1.
        own: int64 [B, k], R of the query itself where it joins the base.
        with_query: bool [B, N], whether the query is in each node's R by joining the base.
    """

    each: Universes
    base: Tensor
    evicted: Tensor
    own: Tensor
    with_query: Tensor

    def of(self, at: Tensor, node: Tensor) -> Tensor:
        """Int64 [P, k + 1], R of each node int64 [P] for the query ``at`` int64 [P], padded -1."""
        found = self.base[node]
        if not self.each.joins.any():
            return found
        gone = self.evicted[at, node][:, None] == found
        gone |= self.evicted[at[:, None], found.clamp(min=0)] == node[:, None]
        found = found.masked_fill(gone, -1)
        query = self.each.query[at]
        itself = (node == query) & self.each.joins[at]
        found[itself] = self.own[at[itself]]
        extra = query.where(self.with_query[at, node] & ~itself, -1)
        return torch.cat([found, extra[:, None]], dim=1)


def _mutual_of(each: Universes, base: Tensor) -> _Mutual:
    count = base.shape[1]
    at = torch.arange(len(each.query), device=base.device)
    own, _ = each.first(at, each.query, count)
    enters = each.rank < count
    evicted = each.base.node[:, count - 1].where(enters, -1)
    listed = torch.zeros_like(enters)
    row, place = (own >= 0).nonzero().unbind(dim=1)
    listed[row, own[row, place]] = True
    with_query = enters & listed
    own = own.where(with_query.gather(1, own.clamp(min=0)) & (own >= 0), -1)
    return _Mutual(each, base, evicted, own, with_query)


class _Graph(NamedTuple):
    near: _Mutual
    half: _Mutual


def _graph(each: Universes, mutual: tuple[Tensor, ...]) -> _Graph:
    return _Graph(*(_mutual_of(each, base) for base in mutual))


@dataclass(frozen=True)
class _Entries:
    """Entries of a sparse matrix: row and column int64 [E], value float32 [E]."""

    row: Tensor
    column: Tensor
    value: Tensor


def _encode(graph: _Graph, similarity: Similarity, at: Tensor, node: Tensor) -> _Entries:
    """V before averaging, for each node int64 [P] in the universe ``at`` int64 [P]."""
    nodes = similarity.nodes
    index = torch.arange(len(node), device=node.device)
    size = max(_CELLS // nodes, 1)
    inside = torch.zeros(min(size, len(node)), nodes, dtype=torch.bool, device=node.device)
    slot = torch.empty(inside.shape, dtype=torch.int32, device=node.device)
    parts = [
        _expand(graph, at[rows], node[rows], inside, slot, rows)
        for rows in torch.split(index, size)
    ]
    row = torch.cat([part[0] for part in parts]) if parts else index
    column = torch.cat([part[1] for part in parts]) if parts else index
    distance = 2 - 2 * similarity.pairs(node[row], column)
    farthest = (2 - 2 * graph.near.each.lowest(at, node)).clamp(min=_FLAT)
    value = torch.exp(-distance / farthest[row])
    total = value.new_zeros(len(node)).index_add_(0, row, value)
    return _Entries(row, column, value / total[row])


def _expand(
    graph: _Graph, at: Tensor, node: Tensor, inside: Tensor, slot: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """R* as pairs (row, column).

    ``inside`` is all False before and after. ``slot`` need not be initialised: of the entries that
    write the same cell, the one that is read back stays.
    """
    near = graph.near.of(at, node)
    row, place = (near >= 0).nonzero().unbind(dim=1)
    member = near[row, place]
    inside[row, member] = True
    half = graph.half.of(at[row], member)  # [E, h]
    there = half >= 0
    known = inside[row[:, None], half.clamp(min=0)] & there
    joins = 3 * known.sum(dim=1) > 2 * there.sum(dim=1)
    edge, place = (there & ~known & joins[:, None]).nonzero().unbind(dim=1)
    inside[row, member] = False
    more_row, more = row[edge], half[edge, place]
    stamp = torch.arange(len(more), dtype=torch.int32, device=more.device)
    slot[more_row, more] = stamp
    once = slot[more_row, more] == stamp
    return torch.cat([rows[row], rows[more_row[once]]]), torch.cat([member, more[once]])


@dataclass(frozen=True)
class _Rows:
    """A sparse matrix by rows: ``start`` int64 [N + 1], column int64 [E], value float32 [E]."""

    start: Tensor
    column: Tensor
    value: Tensor

    def pick(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The entries of the rows int64 [P]: which of the P, and which entry, int64 [E]."""
        count = self.start[rows + 1] - self.start[rows]
        which = torch.arange(len(rows), device=rows.device).repeat_interleave(count)
        shift = self.start[rows] - (count.cumsum(0) - count)
        return which, torch.arange(len(which), device=rows.device) + shift[which]


def _by_row(entries: _Entries, rows: int) -> _Rows:
    row, order = entries.row.sort(stable=True)
    bounds = torch.arange(rows + 1, device=row.device)
    return _Rows(torch.searchsorted(row, bounds), entries.column[order], entries.value[order])


def _encode_all(
    method: KReciprocal,
    similarity: Similarity,
    base: Neighbours,
    mutual: tuple[Tensor, ...],
    alive: Tensor,
) -> _Rows:
    """V of every node of the base; the others' rows are empty."""
    nodes = similarity.nodes
    node = alive.nonzero().flatten()
    none = universes(similarity, base, node[:1], torch.zeros_like(node[:1]).bool())
    single = _encode(_graph(none, mutual), similarity, torch.zeros_like(node), node)
    encoded = _by_row(_Entries(node[single.row], single.column, single.value), nodes)
    if method.k2 == 1:
        return encoded
    parts = []
    for rows in torch.split(node, max(_CELLS // nodes, 1)):
        near = base.node[rows, : method.k2]
        row, place = (near >= 0).nonzero().unbind(dim=1)
        which, entry = encoded.pick(near[row, place])
        total = torch.zeros(len(rows) * nodes, device=rows.device)
        total.index_add_(0, row[which] * nodes + encoded.column[entry], encoded.value[entry])
        cell = total.nonzero().flatten()
        row, column = cell // nodes, cell % nodes
        parts.append((rows[row], column, total[cell] / (near >= 0).sum(dim=1)[row]))
    return _by_row(_Entries(*(torch.cat(part) for part in zip(*parts, strict=True))), nodes)


def _by_column(encoded: _Rows, gallery: Tensor) -> _Rows:
    """The rows of the gallery items, by column; what was a row is an index of the gallery."""
    which, entry = encoded.pick(gallery)
    flipped = _Entries(encoded.column[entry], which, encoded.value[entry])
    return _by_row(flipped, len(encoded.start) - 1)


def _overlap(encoded: _Rows, columns: _Rows, query: Tensor, gallery: int) -> Tensor:
    """The sums m of the module's head, float32 [B, G]."""
    row, entry = encoded.pick(query)
    which, other = columns.pick(encoded.column[entry])
    both = torch.minimum(encoded.value[entry][which], columns.value[other])
    total = torch.zeros(len(query) * gallery, device=query.device)
    total.index_add_(0, row[which] * gallery + columns.column[other], both)
    return total.view(len(query), gallery)


def _one_by_one(
    graph: _Graph, method: KReciprocal, similarity: Similarity, gallery: Tensor
) -> Tensor:
    """The sums m, float32 [B, G], each query in its own universe."""
    each, nodes = graph.near.each, similarity.nodes
    queries = torch.arange(len(each.query), device=gallery.device)
    mine = _averaged(each, queries, each.query, method.k2)
    at, place = (mine >= 0).nonzero().unbind(dim=1)
    single = _encode(graph, similarity, at, mine[at, place])
    of = at[single.row]
    encoded = torch.zeros(len(queries) * nodes, device=gallery.device)
    share = single.value / (mine >= 0).sum(dim=1)[of]
    encoded = encoded.index_add_(0, of * nodes + single.column, share).view(-1, nodes)

    # The columns of each query's own V, side by side.
    filled = encoded > 0
    slot = filled.cumsum(dim=1) - 1
    width = int(filled.sum(dim=1).max())
    compact = encoded.new_zeros(len(queries), width + 1)
    compact.scatter_(1, slot.where(filled, width), encoded)
    compact = compact[:, :width]

    at, node = _reaching(graph, filled).nonzero().unbind(dim=1)
    rows = _encode(graph, similarity, at, node)
    hit = filled[at[rows.row], rows.column]
    row, column = rows.row[hit], rows.column[hit]
    local = encoded.new_zeros(len(node) + 1, width)  # the last row stays zero
    local[row, slot[at[row], column]] = rows.value[hit]
    number = torch.full_like(slot, len(node))
    number[at, node] = torch.arange(len(node), device=node.device)

    total = encoded.new_zeros(len(queries), len(gallery))
    which = queries.repeat_interleave(len(gallery))
    items = gallery.repeat(len(queries))
    near = _averaged(each, which, items, method.k2)
    place = number[which[:, None], near.clamp(min=0)].where(near >= 0, len(node))
    pairs = (place < len(node)).any(dim=1).nonzero().flatten()
    for part in torch.split(pairs, max(_CELLS // max(width, 1), 1)):
        value = local[place[part, 0]]
        for step in range(1, place.shape[1]):
            value += local[place[part, step]]
        value /= (near[part] >= 0).sum(dim=1, keepdim=True)
        overlap = torch.minimum(value, compact[which[part]]).sum(dim=1)
        total.view(-1)[part] = overlap
    return total


def _averaged(each: Universes, at: Tensor, node: Tensor, count: int) -> Tensor:
    """Int64 [P, count], over which nodes V is averaged; one is the node itself."""
    return node[:, None] if count == 1 else each.first(at, node, count)[0]


def _reaching(graph: _Graph, filled: Tensor) -> Tensor:
    """Bool [B, N], the nodes whose R* can meet the columns bool [B, N] of their query.

    R is symmetric: i is in R(x) or in some R(c), with c in the half-size R of x.
    """
    reached = filled.clone()
    for mutual in reversed(graph):
        at, node = reached.nonzero().unbind(dim=1)
        near = mutual.of(at, node)
        row, place = (near >= 0).nonzero().unbind(dim=1)
        if mutual is graph.near:
            reached = torch.zeros_like(filled)
        reached[at[row], near[row, place]] = True
    return reached
