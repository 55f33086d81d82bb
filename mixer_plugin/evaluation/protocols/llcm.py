"""LLCM: a gallery of one image per identity and camera, ten times drawn, or every test image."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.evaluation.protocols.base import CMC, TRIALS, Protocol, check_cameras
from mixer_plugin.evaluation.protocols.gallery_draws import ye_draw
from mixer_plugin.features import FeatureSet
from mixer_plugin.releases import LLCM, Counts, count_llcm


@dataclass(frozen=True, kw_only=True)
class LlcmProtocol(Protocol):
    """LLCM's protocols (Zhang and Wang, CVPR 2023; github.com/ZYK100/LLCM).

    Attributes:
        sampled: Whether the gallery is one image per identity and camera, drawn by the public
            scripts' seeds, or every test image.
    """

    sampled: bool
    cmc: CMC = "dedup"
    # One physical camera takes both kinds of image, and both bear its number.
    colocated: tuple[tuple[int, int], ...] = tuple((cam, cam) for cam in LLCM.infrared)

    def _check(self, features: FeatureSet, settings: Collection[str], query: str) -> None:
        # Codebases that test on every image give one made-up camera number per modality.
        if self.sampled:
            check_cameras(self.id, features, LLCM.cameras)

    def _trials(self) -> int:
        return TRIALS if self.sampled else 1

    def _draw(self, features: FeatureSet, trials: int) -> list[NDArray[np.int64]]:
        if not self.sampled:
            return super()._draw(features, trials)
        self.check(features)
        return ye_draw(features, LLCM.cameras, trials)

    def _words(self) -> dict[str, str]:
        words = super()._words()
        what = "one image per identity and camera" if self.sampled else "every test image"
        words["gallery"] = f"{what}; the query's modality, the other or both, as the setting says"
        if self.sampled:
            words["draws"] = (
                "random.seed(trial) and random.choice per identity and camera, anew for each "
                "modality (public scripts of LLCM)"
            )
        numbers = ", ".join(str(cam) for cam, _ in self.colocated)
        words["co-located"] = f"visible and infrared camera of one number are one camera: {numbers}"
        return words

    def counts(self, features: FeatureSet) -> Counts:
        """As ``Protocol.counts``."""
        labels = (features.ids, features.cams, features.modality)
        counts = count_llcm(*(each.tolist() for each in labels))
        if not self.sampled:  # cameras may be made up
            del counts["pairs of identity and infrared camera"]
        return counts
