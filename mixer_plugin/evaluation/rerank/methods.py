"""Re-ranking: scores that also look at the neighbours of the query and of the gallery items.

Everything is exact, and nothing is seen that a query must not see: the result for a query is that
of the method on the images that are left once those removed for it are deleted. They are no gallery
items, no other queries and nobody's neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError, closest
from mixer_plugin.evaluation.rerank.aim import affinity
from mixer_plugin.evaluation.rerank.bridge import bridge
from mixer_plugin.evaluation.rerank.k_reciprocal import Sizes, k_reciprocal
from mixer_plugin.evaluation.rerank.neighbours import Similarity, restrict, row_blocks, survey
from mixer_plugin.evaluation.rerank.query_groups import groups


@dataclass(frozen=True, kw_only=True)
class KReciprocal:
    """k-reciprocal encoding (Zhong et al., CVPR 2017); see ``kreciprocal.py``.

    Attributes:
        k1: Neighbours that must list each other.
        k2: Neighbours over which the encoding is averaged; 1: it is not.
        weight: Weight of the distance itself, in [0, 1]; the paper's lambda.
        graph: ``all``: neighbours are searched among queries and gallery, as published.
            ``queries``: among the queries only, as MPANet and IDKL do by default
            (``eval_type=True``). Its result depends strongly on how many queries there are.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3
    graph: str = "all"

    def __post_init__(self) -> None:
        if self.graph not in _GRAPHS:
            raise MixERValueError(f"Unknown graph {self.graph!r}.{closest(self.graph, _GRAPHS)}")
        _check_count("k1", self.k1, 1)
        # A gallery item is in no query's list, so its own encoding is empty.
        _check_count("k2", self.k2, 2 if self.graph == "queries" else 1)
        _check_weight(self.weight)

    def describe(self, queries: int) -> str:
        """The label of a result row; the number of queries belongs to it."""
        return (
            f"k-reciprocal(k1={self.k1}, k2={self.k2}, weight={self.weight}, graph={self.graph}, "
            f"{queries} queries)"
        )


@dataclass(frozen=True, kw_only=True)
class AIM:
    """Affinity inference (SAAI, ICCV 2023); see ``affinity.py``.

    SAAI's (k1, k2): (4, 1) on SYSU-MM01 all-search single-shot, (20, 6) multi-shot, (2, 2) indoor
    single-shot, (8, 2) on RegDB.

    Attributes:
        k1: Gallery items kept per list.
        k2: Lists averaged for a gallery item.
    """

    k1: int = 4
    k2: int = 1

    def __post_init__(self) -> None:
        _check_count("k1", self.k1, 1)
        _check_count("k2", self.k2, 1)

    def describe(self, queries: int) -> str:
        """The label of a result row."""
        return f"aim(k1={self.k1}, k2={self.k2}, {queries} queries)"


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """A reconstruction of MBSOS (arXiv 2412.04719), from prose; see ``bridge.py``.

    The bridges of a query are the gallery items of its own modality most similar to it. Only scores
    across modalities change; those of a query without a bridge stay as they are.

    Attributes:
        k: Bridges per query.
        weight: Weight of the mean score of the bridges, in [0, 1]; of no account for ``max``.
        mutual: Whether the query must be among the k nearest of a bridge, too.
        mode: ``mean``: (1 - weight) s(q, g) + weight mean_b s(b, g).
            ``max``: the largest of s(q, g) and all s(q, b) s(b, g).
    """

    k: int = 1
    weight: float = 0.5
    mutual: bool = False
    mode: str = "mean"

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise MixERValueError(f"Unknown mode {self.mode!r}.{closest(self.mode, _MODES)}")
        _check_count("k", self.k, 1)
        _check_weight(self.weight)
        if self.mode == "max" and self.weight != 0.5:
            raise MixERValueError(
                f"mode='max' weighs nothing, got weight={self.weight}; leave weight out."
            )

    def describe(self, queries: int) -> str:
        """The label of a result row."""
        weight = f", weight={self.weight}" if self.mode == "mean" else ""
        mutual = ", mutual" if self.mutual else ""
        return f"bridge(reconstruction, k={self.k}{weight}, {self.mode}{mutual}, {queries} queries)"


Rerank: TypeAlias = KReciprocal | AIM | Bridge

_GRAPHS = ("all", "queries")
_MODES = ("mean", "max")


def get_rerank(method: str | Rerank) -> Rerank:
    """The method of a name, with its default options, or the object given.

    Raises:
        MixERValueError: Unknown name.
        MixERTypeError: Neither a name nor a method.
    """
    if isinstance(method, (KReciprocal, AIM, Bridge)):
        return method
    if not isinstance(method, str):
        raise MixERTypeError(
            f"rerank must be a name or one of KReciprocal, AIM and Bridge, got "
            f"{type(method).__name__}."
        )
    known: dict[str, Rerank] = {
        "k-reciprocal": KReciprocal(),
        "k-reciprocal@queries": KReciprocal(graph="queries"),
        "aim": AIM(),
        "bridge": Bridge(),
    }
    if method not in known:
        raise MixERValueError(f"Unknown re-ranking {method!r}.{closest(method, known)}")
    return known[method]


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
    _check_images("query", query)
    _check_images("gallery", gallery)
    if not len(query) or not len(gallery):
        return torch.zeros(len(query), len(gallery), device=query.device)
    nodes = _count_images(similarity(query[:1]))
    _check_range("query", query, nodes)
    _check_range("gallery", gallery, nodes)
    if len(torch.unique(gallery)) != len(gallery):
        raise MixERValueError("gallery names an image twice; every gallery item must be distinct.")
    if removed is not None:
        _check_removed(removed, len(query), nodes)
    if isinstance(method, Bridge):
        asked = Similarity(similarity, nodes)
        kinds = _check_modality(modality, nodes)
        weight = method.weight if method.mode == "mean" else None
        result = bridge(method.k, weight, method.mutual, asked, query, gallery, removed, kinds)
    else:
        result = _by_groups(method, similarity, query, gallery, removed, nodes)
    if removed is not None:
        for rows in row_blocks(len(query), nodes):
            result[rows].masked_fill_(removed[rows][:, gallery], -torch.inf)
    return result


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
            affinity(method.k1, method.k2, asked, base, query, group, gallery, result)
        else:
            # Python and NumPy round half to even, as the public code does.
            sizes = Sizes(method.k1 + 1, round(method.k1 / 2) + 1, method.k2, method.weight)
            k_reciprocal(sizes, asked, base, query, group, gallery, result)
    return result


def _members(index: Tensor, nodes: int) -> Tensor:
    """Bool [N], True at the images int64 [M]."""
    mask = torch.zeros(nodes, dtype=torch.bool, device=index.device)
    mask[index] = True
    return mask


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MixERValueError(f"{name} must be a whole number, at least {least}, got {value!r}.")


def _check_weight(value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise MixERValueError(f"weight must lie in [0, 1], got {value!r}.")


def _check_images(name: str, value: Tensor) -> None:
    if value.dtype != torch.int64 or value.ndim != 1:
        raise MixERTypeError(
            f"{name} must be a vector of int64, the numbers of images, got {value.dtype} "
            f"{tuple(value.shape)}."
        )


def _check_range(name: str, value: Tensor, nodes: int) -> None:
    if not 0 <= int(value.min()) <= int(value.max()) < nodes:
        raise MixERValueError(
            f"{name} must lie between 0 and {nodes - 1} (similarity gives {nodes} columns), got "
            f"{int(value.min())} to {int(value.max())}."
        )


def _count_images(row: Tensor) -> int:
    if row.ndim != 2 or len(row) != 1:
        raise MixERValueError(
            f"similarity must return float32 [1, N] for one image, got shape {tuple(row.shape)}."
        )
    return row.shape[1]


def _check_removed(removed: Tensor, queries: int, nodes: int) -> None:
    if removed.dtype != torch.bool:
        raise MixERTypeError(f"removed must be a bool tensor, got {removed.dtype}.")
    if removed.shape != (queries, nodes):
        raise MixERValueError(
            f"removed must have a row per query and a column per image, shape ({queries}, "
            f"{nodes}), got {tuple(removed.shape)}."
        )


def _check_modality(modality: Tensor | None, nodes: int) -> Tensor:
    if modality is None or modality.shape != (nodes,):
        given = "None" if modality is None else f"shape {tuple(modality.shape)}"
        raise MixERValueError(f"bridge needs modality, int64 [{nodes}], got {given}.")
    return modality
