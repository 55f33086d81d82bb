"""UMAP of features, where umap-learn is installed."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.evaluation.statistics import SEED

MOST_POINTS = 1000


def embed(features: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Lays features out in a plane (McInnes et al., UMAP, 2018), by their cosines.

    Args:
        features: float32 [N, D].

    Returns:
        Rows, int64 [M], at most ``MOST_POINTS`` drawn by a fixed seed, and their places, float64
        [M, 2]; None without umap-learn or with fewer than 10 images.
    """
    if len(features) < 10:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError:
        return None
    rows = np.arange(len(features))
    if len(rows) > MOST_POINTS:
        rows = np.sort(np.random.default_rng(SEED).choice(rows, MOST_POINTS, replace=False))
    neighbours = min(15, len(rows) - 1)
    plane = UMAP(n_neighbors=neighbours, metric="cosine", random_state=SEED, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places = plane.fit_transform(features.cpu().numpy()[rows])
    return rows, np.asarray(places, dtype=np.float64)
