"""Re-ranking: scores that also look at the neighbours of the query and of the gallery items.

Everything is exact, and nothing is seen that a query must not see: the result for a query is that
of the method on the images that are left once those removed for it are deleted. They are no gallery
items, no other queries and nobody's neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.evaluation.rerank.aim import affinity
from mixer_plugin.evaluation.rerank.bridge import bridge
from mixer_plugin.evaluation.rerank.k_reciprocal import k_reciprocal
from mixer_plugin.evaluation.rerank.neighbours import Similarity, restrict, row_blocks, survey
from mixer_plugin.evaluation.rerank.options import AIM, Bridge, KReciprocal, Rerank, get_rerank
from mixer_plugin.evaluation.rerank.query_groups import groups

__all__ = ["AIM", "Bridge", "KReciprocal", "get_rerank", "rerank"]


def rerank(
    method: str | Rerank,
    similarity: Callable[[Tensor], Tensor],
    query: Tensor,
    gallery: Tensor,
    *,
    removed: Tensor | None = None,
    modality: Tensor | None = None,
) -> Tensor:
    """Re-ranked scores of every query with every gallery item.

    A query that is a gallery item, too, is one image, which exists for itself whatever ``removed``
    says; its own column is the caller's to leave out. Time: queries for which the same images
    exist are computed together, and so are those that differ only in each lacking its fellows.

    Args:
        method: A method or its name: ``k-reciprocal``, ``k-reciprocal@queries``, ``aim``,
            ``bridge``.
        similarity: From images int64 [R], counted from 0, to float32 [R, N], their similarities
            with all N images: symmetric, a cosine or a mean of cosines. It is asked for blocks of
            rows; for more than 16,384 images some rows are asked for more than once.
        query: int64 [Q].
        gallery: int64 [G], all distinct, on the same device.
        removed: bool [Q, N], which images do not exist for each query. None: all exist.
        modality: int64 [N]; needed by ``bridge`` only.

    Returns:
        float32 [Q, G], higher is more alike; -inf where the gallery item is removed. k-reciprocal:
        1 - weight minus the paper's distance. AIM: a sum of two cosines. Bridge: as ``similarity``.
        On CUDA devices sums are taken in no fixed order (differences of about 1e-7).

    Raises:
        MixERValueError: Unknown name, shapes or numbers that do not fit, no modality for
            ``bridge``.
        MixERTypeError: Images that are not int64, or a mask that is not bool.
    """
    method = get_rerank(method)
    for name, value in (("query", query), ("gallery", gallery)):
        if value.dtype != torch.int64 or value.ndim != 1:
            raise MixERTypeError(
                f"{name} must be a vector of int64, the numbers of images, got {value.dtype} "
                f"{tuple(value.shape)}."
            )
    if not len(query) or not len(gallery):
        return torch.zeros(len(query), len(gallery), device=query.device)
    nodes = _check(similarity(query[:1]), query, gallery, removed)
    method = _bounded(method, nodes)
    if isinstance(method, Bridge):
        asked = Similarity(similarity, nodes)
        if modality is None or modality.shape != (nodes,):
            given = "None" if modality is None else f"shape {tuple(modality.shape)}"
            raise MixERValueError(f"bridge needs modality, int64 [{nodes}], got {given}.")
        result = bridge(method, asked, query, gallery, removed, modality)
    else:
        result = _by_groups(method, similarity, query, gallery, removed, nodes)
    if removed is not None:
        for rows in row_blocks(len(query), nodes):
            result[rows].masked_fill_(removed[rows][:, gallery], -torch.inf)
    return result


def _bounded(method: Rerank, nodes: int) -> Rerank:
    """The same method: lists longer than there are images would only be padded."""
    most = max(nodes, 2)
    if isinstance(method, Bridge):
        return replace(method, k=min(method.k, most))
    # Lists of half of k1 count, too.
    return replace(method, k1=min(method.k1, 2 * most), k2=min(method.k2, most))


def _by_groups(
    method: KReciprocal | AIM,
    similarity: Callable[[Tensor], Tensor],
    query: Tensor,
    gallery: Tensor,
    removed: Tensor | None,
    nodes: int,
) -> Tensor:
    eligible = torch.ones(nodes, dtype=torch.bool, device=query.device)
    if isinstance(method, AIM):
        eligible = _members(gallery, nodes)
        count = max(method.k1, method.k2)
    else:
        if method.graph == "queries":
            eligible = _members(query, nodes)
        count = max(method.k1 + 1, method.k2)
    asked, near, result = survey(
        similarity, query, gallery, eligible, count, spare=removed is not None
    )
    for group in groups(query, removed, nodes):
        base = near
        if removed is not None:
            needed = group.alive | _members(query[group.rows], nodes)
            base = restrict(asked, near, group.alive, group.alive & eligible, needed, count)
        if isinstance(method, AIM):
            affinity(method, asked, base, query, group, gallery, result)
        else:
            k_reciprocal(method, asked, base, query, group, gallery, result)
    return result


def _members(index: Tensor, nodes: int) -> Tensor:
    """Bool [N], True at the images int64 [M]."""
    mask = torch.zeros(nodes, dtype=torch.bool, device=index.device)
    mask[index] = True
    return mask


def _check(row: Tensor, query: Tensor, gallery: Tensor, removed: Tensor | None) -> int:
    """The number of images, by the similarities of one; arguments as of ``rerank``."""
    if row.ndim != 2 or len(row) != 1:
        raise MixERValueError(
            f"similarity must return float32 [1, N] for one image, got shape {tuple(row.shape)}."
        )
    nodes = row.shape[1]
    for name, value in (("query", query), ("gallery", gallery)):
        if not 0 <= int(value.min()) <= int(value.max()) < nodes:
            raise MixERValueError(
                f"{name} must lie between 0 and {nodes - 1} (similarity gives {nodes} columns), "
                f"got {int(value.min())} to {int(value.max())}."
            )
    if len(torch.unique(gallery)) != len(gallery):
        raise MixERValueError("gallery names an image twice; every gallery item must be distinct.")
    if removed is not None and removed.dtype != torch.bool:
        raise MixERTypeError(f"removed must be a bool tensor, got {removed.dtype}.")
    if removed is not None and removed.shape != (len(query), nodes):
        raise MixERValueError(
            f"removed must have a row per query and a column per image, shape ({len(query)}, "
            f"{nodes}), got {tuple(removed.shape)}."
        )
    return nodes
