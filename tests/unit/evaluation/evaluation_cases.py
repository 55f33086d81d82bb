"""Feature sets to evaluate."""

from __future__ import annotations

import numpy as np

from mixer_plugin.evaluation import evaluate
from mixer_plugin.features import FeatureSet


def make(count=80, seed=0, related=True, identities=8):
    rng = np.random.default_rng(seed)
    modality = np.arange(count) % 2
    ids = rng.integers(1, identities + 1, count)
    codes = rng.normal(size=(identities + 1, 8))
    return FeatureSet(
        erased=codes[ids] + 1.5 * rng.normal(size=(count, 8)) + modality[:, None],
        related=codes[ids] + 1.5 * rng.normal(size=(count, 8)) if related else None,
        ids=ids,
        cams=rng.integers(1, 4, count) + 3 * modality,
        modality=modality,
    )


def ranked(ids, cams, modality):
    """Row 0 is the query; the others follow in falling similarity to it."""
    angles = np.linspace(0, 1, len(ids))
    erased = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return FeatureSet(erased, None, ids, cams, modality)


def row_of(features, setting, protocol="full", **options):
    """The row, for the first image as the only query."""
    results = evaluate(features, protocol, settings=(setting,), rules=("erased",), **options)
    return results.rows[0]
