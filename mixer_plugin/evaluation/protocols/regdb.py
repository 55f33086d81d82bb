"""RegDB: ten splits of the identities, one model trained on each; every test image is listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.protocols.base import Protocol
from mixer_plugin.evaluation.settings import SameCamera
from mixer_plugin.features import FeatureSet
from mixer_plugin.releases import Counts, count_regdb


@dataclass(frozen=True, kw_only=True)
class RegdbProtocol(Protocol):
    """One split of RegDB; ``evaluation.analysis.split_means.mean_over_splits`` joins them.

    The mean over the splits is the data set's number (``process_test_regdb`` of the public scripts
    of AGW, DDAG and DEEN, standard CMC).
    """

    same_camera: SameCamera = "keep"

    def _check(self, features: FeatureSet, settings: Collection[str], query: str) -> None:
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

    def _words(self) -> dict[str, str]:
        split = self.id.split("/")[1]
        return super()._words() | {
            "queries": f"every test image of the query modality; for a model of split {split}",
            "gallery": "every test image; the query's modality, the other or both, as the setting "
            "says",
        }

    def counts(self, features: FeatureSet) -> Counts:
        """As ``Protocol.counts``."""
        return count_regdb(features.ids.tolist(), features.modality.tolist())
