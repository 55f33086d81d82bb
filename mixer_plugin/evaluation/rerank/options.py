"""The re-ranking methods by name, and their options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mixer_plugin.errors import MixERTypeError, MixERValueError, check_name

_GRAPHS = ("all", "queries")
_MODES = ("mean", "max")


@dataclass(frozen=True, kw_only=True)
class KReciprocal:
    """k-reciprocal encoding (Zhong et al., CVPR 2017); see ``k_reciprocal.py``.

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
        check_name("graph", self.graph, _GRAPHS)
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
    """Affinity inference (SAAI, ICCV 2023); see ``aim.py``.

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
        check_name("mode", self.mode, _MODES)
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
    check_name("re-ranking", method, known)
    return known[method]


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MixERValueError(f"{name} must be a whole number, at least {least}, got {value!r}.")


def _check_weight(value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise MixERValueError(f"weight must lie in [0, 1], got {value!r}.")
