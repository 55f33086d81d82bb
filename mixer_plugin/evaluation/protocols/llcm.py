"""LLCM: a gallery of one image per identity and camera, ten times drawn, or every test image."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.evaluation.protocols.base import (
    CMC,
    TRIALS,
    Cameras,
    Protocol,
    check_cameras,
    count_labels,
)
from mixer_plugin.evaluation.protocols.gallery_draws import ye_draw
from mixer_plugin.features import FeatureSet, Modality

CAMERAS: Cameras = ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 4, 5, 6, 7, 8, 9))

# The released test set: identities, visible and infrared images, (identity, infrared camera) pairs.
_IDENTITIES, _VISIBLE, _INFRARED, _INFRARED_PAIRS = 351, 8680, 7166, 619


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
    colocated: tuple[tuple[int, int], ...] = tuple((cam, cam) for cam in CAMERAS[1])

    def check(
        self, features: FeatureSet, *, settings: Collection[str] = (), query: str | None = None
    ) -> None:
        """Refuses cameras that are not LLCM's, where the gallery is drawn by camera."""
        # Codebases that test on every image give one made-up camera number per modality.
        if self.sampled:
            check_cameras(self.id, features, CAMERAS)

    def _trials(self) -> int:
        return TRIALS if self.sampled else 1

    def _draw(self, features: FeatureSet, trials: int) -> list[NDArray[np.int64]]:
        if not self.sampled:
            return super()._draw(features, trials)
        self.check(features)
        return ye_draw(features, CAMERAS, trials)

    def _gallery(self) -> str:
        what = "one image per identity and camera" if self.sampled else "every test image"
        return f"{what}; the query's modality, the other or both, as the setting says"

    def _drawing(self) -> str:
        if not self.sampled:
            return super()._drawing()
        return (
            "random.seed(trial) and random.choice per identity and camera, anew for each "
            "modality (public scripts of LLCM)"
        )

    def _places(self) -> str:
        numbers = ", ".join(str(cam) for cam, _ in self.colocated)
        return f"visible and infrared camera of one number are one camera: {numbers}"

    def counts(self, features: FeatureSet) -> dict[str, tuple[int, int]]:
        """As ``Protocol.counts``."""
        identities, visible, infrared = count_labels(features)
        counts = {
            "identities": (identities, _IDENTITIES),
            "visible images": (visible, _VISIBLE),
            "infrared images": (infrared, _INFRARED),
        }
        if self.sampled:
            chosen = features[features.modality == Modality.INFRARED]
            pairs = set(zip(chosen.ids.tolist(), chosen.cams.tolist(), strict=True))
            counts["pairs of identity and infrared camera"] = (len(pairs), _INFRARED_PAIRS)
        return counts
