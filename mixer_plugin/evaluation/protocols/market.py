"""Market-1501: visible images only; queries and gallery are told apart by their folders."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.protocols.base import Protocol
from mixer_plugin.evaluation.settings import SameCamera
from mixer_plugin.features import FeatureSet, Modality

QUERY, GALLERY = "query", "bounding_box_test"
JUNK, DISTRACTOR = -1, 0


@dataclass(frozen=True, kw_only=True)
class MarketProtocol(Protocol):
    """Market-1501 (Zheng et al., ICCV 2015), for the setting ``uni`` and visible queries."""

    same_camera: SameCamera = "same-id"
    settings: tuple[str, ...] = ("uni",)
    query: str = "visible"

    def queries(self, features: FeatureSet, modality: int) -> NDArray[np.int64]:
        """Int64 [queries], the sorted rows of the folder ``query``; none is infrared."""
        asking = features.modality.cpu().numpy() == modality
        return np.flatnonzero(asking & (_folders(features) == QUERY))

    def check(
        self, features: FeatureSet, *, settings: Collection[str] = (), query: str | None = None
    ) -> None:
        """Refuses infrared images and queries, other settings than ``uni``, and missing folders."""
        infrared = int((features.modality == Modality.INFRARED).sum())
        query = query or self.query
        if infrared or query != self.query or set(settings) - set(self.settings):
            raise MixERValueError(
                f"{self.id} holds visible images only: pass settings={self.settings}, "
                f"query={self.query!r}; got settings={tuple(settings)}, query={query!r} and "
                f"{infrared} infrared images."
            )
        for folder in (QUERY, GALLERY):
            if not (_folders(features) == folder).any():
                raise MixERValueError(
                    f"{self.id} needs images of the folders {QUERY!r} and {GALLERY!r}; none of "
                    f"the {len(features)} paths lies in {folder!r}. Extract features of both."
                )

    def _draw(self, features: FeatureSet, trials: int) -> list[NDArray[np.int64]]:
        held = (_folders(features) == GALLERY) & (features.ids.cpu().numpy() != JUNK)
        return [np.flatnonzero(held)] * trials

    def _asking(self) -> str:
        return f"every image of the folder {QUERY!r}; setting uni, visible"

    def _gallery(self) -> str:
        return (
            f"every image of the folder {GALLERY!r}, without junk (identity {JUNK}), with "
            f"distractors (identity {DISTRACTOR})"
        )

    def counts(self, features: FeatureSet) -> dict[str, tuple[int, int]]:
        """As ``Protocol.counts``."""
        ids = features.ids.cpu().numpy()
        asking, gallery = self.queries(features, Modality.VISIBLE), self.draws(features)[0]
        return {
            "queries": (len(asking), 3368),
            "identities of queries": (len(np.unique(ids[asking])), 750),
            "gallery images": (len(gallery), 15913),
            "distractors": (int((ids[gallery] == DISTRACTOR).sum()), 2798),
        }


def _folders(features: FeatureSet) -> NDArray[np.str_]:
    """The name of the folder of each image, str [N]."""
    if features.paths is None:
        raise MixERValueError(
            "market1501 tells queries from gallery by the folder of each image, but the FeatureSet "
            f"has paths=None; give paths such as {QUERY}/0001_c1s1_001051_00.jpg."
        )
    folders = [path.replace("\\", "/").rpartition("/")[0] for path in features.paths]
    return np.array([folder.rpartition("/")[2] for folder in folders], dtype=np.str_)
