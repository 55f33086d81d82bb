"""RegDB: ten splits of the identities, one model trained on each; every test image is listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.protocols.base import Protocol
from mixer_plugin.evaluation.settings import SameCamera
from mixer_plugin.features import FeatureSet

SPLITS = tuple(range(1, 11))

# The test half of every split: identities, each with so many images per modality.
_IDENTITIES, _IMAGES = 206, 10


@dataclass(frozen=True, kw_only=True)
class RegdbProtocol(Protocol):
    """One split of RegDB; ``evaluation.analysis.split_means.mean_over_splits`` joins them.

    The mean over the splits is the data set's number (``process_test_regdb`` of the public scripts
    of AGW, DDAG and DEEN, standard CMC).
    """

    same_camera: SameCamera = "keep"

    def check(
        self, features: FeatureSet, *, settings: Collection[str] = (), query: str | None = None
    ) -> None:
        """Refuses ``mix-cam`` and ``mix-cam-id`` where both modalities share a camera number."""
        asked = [name for name in settings if name in ("mix-cam", "mix-cam-id")]
        pairs = set(zip(features.cams.tolist(), features.modality.tolist(), strict=True))
        both = sorted(cam for cam, count in Counter(cam for cam, _ in pairs).items() if count > 1)
        if asked and both:
            raise MixERValueError(
                f"RegDB has a camera per modality, but camera {both[0]} is both visible and "
                f"infrared here, and {asked[0]!r} would remove its images of both. Number the "
                "visible and the infrared camera differently."
            )

    def _asking(self) -> str:
        split = self.id.split("/")[1]
        return f"every test image of the query modality; model trained on split {split}"

    def _gallery(self) -> str:
        return "every test image; the query's modality, the other or both, as the setting says"

    def counts(self, features: FeatureSet) -> dict[str, tuple[int, int]]:
        """As ``Protocol.counts``."""
        images = Counter(zip(features.ids.tolist(), features.modality.tolist(), strict=True))
        identities = set(features.ids.tolist())
        whole = sum(images[i, 0] == images[i, 1] == _IMAGES for i in identities)
        return {
            "identities": (len(identities), _IDENTITIES),
            f"identities with {_IMAGES} images in each modality": (whole, _IDENTITIES),
        }
