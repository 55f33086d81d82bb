"""Features of images, recovered from the vectors that a gallery keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.normalized import present
from mixer_plugin.matching.rules import Rule
from mixer_plugin.search.fitted import GalleryStatistics, uncentered
from mixer_plugin.search.spaces import FeatureSpace
from mixer_plugin.search.vectors import item_parts


class Labelled(Protocol):
    """An image: its person, camera and modality."""

    @property
    def id(self) -> int: ...  # noqa: D102
    @property
    def camera(self) -> int: ...  # noqa: D102
    @property
    def modality(self) -> int: ...  # noqa: D102


def features_of_vectors(
    vectors: Sequence[NDArray[np.float32]],
    images: Sequence[Labelled],
    rule: Rule,
    space: FeatureSpace,
    statistics: GalleryStatistics,
) -> FeatureSet:
    """Features of N images, each of length 1; what the rule does not use is zero.

    Args:
        vectors: Of each image, as ``item_vectors`` made it, float32 [D]; more at its end is left.
        images: Their labels.
        rule: Of the gallery, and the two below.
        space: Of the features.
        statistics: Of the first set.
    """
    modality = torch.tensor([image.modality for image in images])
    erased = torch.zeros(len(images), space.erased)
    related = None if space.related is None else torch.zeros(len(images), space.related)
    for side in present(modality):
        places = (modality == side).nonzero().flatten()
        own = np.stack([vectors[i] for i in places.tolist()])
        for source, array in item_parts(own, rule, side, space).items():
            part = torch.from_numpy(array)
            if statistics.center is not None:
                part = uncentered(part, statistics.center[source][side])
            target = related if source == "related" else erased
            assert target is not None, "the rule needs what it has"
            target[places] = part
    return FeatureSet(
        erased=erased,
        related=related,
        ids=[image.id for image in images],
        cams=[image.camera for image in images],
        modality=modality,
        reduction=space.reduction,
    )
