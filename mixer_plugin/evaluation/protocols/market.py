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
from mixer_plugin.releases import (
    MARKET_DISTRACTOR,
    MARKET_FOLDERS,
    MARKET_JUNK,
    Counts,
    count_market,
)

_, QUERY, GALLERY = MARKET_FOLDERS


@dataclass(frozen=True, kw_only=True)
class MarketProtocol(Protocol):
    """Market-1501 (Zheng et al., ICCV 2015), for the setting ``uni`` and visible queries."""

    same_camera: SameCamera = "same-id"
    settings: tuple[str, ...] = ("uni",)
    query: str = "visible"

    def _zero_is_person(self) -> bool:
        return False

    def _queries(self, features: FeatureSet, modality: int) -> NDArray[np.int64]:
        """Int64 [queries], the sorted rows of the folder ``query``; none is infrared."""
        side = features.modality.cpu().numpy() == modality
        return np.flatnonzero(side & (_folders(features) == QUERY))

    def _check(self, features: FeatureSet, settings: Collection[str], query: str) -> None:
        """Refuses infrared images and queries, other settings than ``uni``, and missing folders."""
        infrared = int((features.modality == Modality.INFRARED).sum())
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
        held = (_folders(features) == GALLERY) & (features.ids.cpu().numpy() != MARKET_JUNK)
        return [np.flatnonzero(held)] * trials

    def _words(self) -> dict[str, str]:
        return super()._words() | {
            "queries": f"every image of the folder {QUERY!r}; setting uni, visible",
            "gallery": f"every image of the folder {GALLERY!r}, without junk (identity "
            f"{MARKET_JUNK}), with distractors (identity {MARKET_DISTRACTOR})",
        }

    def counts(self, features: FeatureSet) -> Counts:
        """As ``Protocol.counts``."""
        counts = count_market(features.ids.tolist(), _folders(features).tolist())
        del counts["junk images"]  # which features may leave out
        return counts


def _folders(features: FeatureSet) -> NDArray[np.str_]:
    """The name of the folder of each image, str [N]."""
    if features.paths is None:
        raise MixERValueError(
            "market1501 tells queries from gallery by the folder of each image, but the FeatureSet "
            f"has paths=None; give paths such as {QUERY}/0001_c1s1_001051_00.jpg."
        )
    folders = [path.replace("\\", "/").rpartition("/")[0] for path in features.paths]
    return np.array([folder.rpartition("/")[2] for folder in folders], dtype=np.str_)
