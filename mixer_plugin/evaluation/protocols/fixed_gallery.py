"""A protocol with given galleries."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.protocols.registry import Protocol, as_protocol
from mixer_plugin.features import FeatureSet


@dataclass(frozen=True, kw_only=True)
class FixedGallery(Protocol):
    """A protocol with given galleries; queries and all else are those of another protocol.

    ``fixed_gallery`` makes one.

    Attributes:
        base: The other protocol.
        gallery: Per trial int64 [gallery], sorted rows of the feature set.
        note: What the galleries hold, for the contract.
        query_rows: int64 [queries], the rows among which the queries are; None: all.
    """

    base: Protocol
    gallery: tuple[NDArray[np.int64], ...] = field(repr=False, compare=False)
    note: str
    query_rows: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)

    def queries(self, features: FeatureSet, modality: int) -> NDArray[np.int64]:
        """Those of the other protocol that are among ``query_rows``."""
        rows = self.base.queries(features, modality)
        return rows if self.query_rows is None else np.intersect1d(rows, self.query_rows)

    def _zero_is_person(self) -> bool:
        return self.base._zero_is_person()

    def _check(self, features: FeatureSet, settings: Collection[str], query: str) -> None:
        self.base._check(features, settings, query)

    def draws(self, features: FeatureSet, trials: int | None = None) -> list[NDArray[np.int64]]:
        """The first ``trials`` galleries, or all; ``MixERValueError`` if there are not so many."""
        if trials is not None and not 1 <= trials <= len(self.gallery):
            raise MixERValueError(
                f"{len(self.gallery)} galleries are given, but trials={trials} are asked for."
            )
        return list(self.gallery[:trials])

    def _trials(self) -> int:
        return len(self.gallery)

    def _words(self) -> dict[str, str]:
        rows = self.query_rows
        few = "" if rows is None else f"; only those among {len(rows)} given rows"
        return super()._words() | {
            "queries": self.base._words()["queries"] + few,
            "gallery": self.note,
            "draws": f"{len(self.gallery)} given galleries, one trial each",
        }


def fixed_gallery(
    protocol: str | Protocol,
    gallery: Sequence[NDArray[np.int64]],
    note: str,
    *,
    query_rows: NDArray[np.int64] | None = None,
) -> FixedGallery:
    """A protocol with these galleries, one trial each.

    Args:
        protocol: Says all else: queries, removals, CMC.
        gallery: Per trial int64 [gallery], rows of the feature set, none twice.
        note: What the galleries hold, for the contract.
        query_rows: int64 [queries], rows of the feature set among which the queries are; None: all.

    Returns:
        The protocol, for ``evaluate``.

    Raises:
        MixERValueError: There is no gallery, or one is empty or holds a row twice.
    """
    protocol = as_protocol(protocol)
    kept = tuple(np.unique(np.asarray(rows, dtype=np.int64)) for rows in gallery)
    if not kept or any(not len(k) or len(k) != len(g) for k, g in zip(kept, gallery, strict=True)):
        raise MixERValueError(
            "Galleries must be lists of rows, at least one gallery, none empty and no row twice "
            f"in one; got sizes {[len(rows) for rows in gallery]}."
        )
    options = {each.name: getattr(protocol, each.name) for each in fields(Protocol)}
    return FixedGallery(base=protocol, gallery=kept, note=note, query_rows=query_rows, **options)
