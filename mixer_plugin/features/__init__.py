"""Features of a set of images, and the files they come from."""

from __future__ import annotations

from mixer_plugin.features.feature_set import FeatureSet
from mixer_plugin.features.modality import Modality

__all__ = ["FeatureSet", "Modality"]
