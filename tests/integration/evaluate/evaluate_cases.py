"""Features of SYSU-MM01's cameras, and reading of tables."""

from __future__ import annotations

import csv
import io

import numpy as np

from mixer_plugin.features import FeatureSet

SYSU = ("--protocol", "sysu/all/single@ye", "--trials", "2")


def make(seed=0, related=True):
    """Four identities, three images in each of SYSU-MM01's cameras."""
    rng = np.random.default_rng(seed)
    keys = [(cam, i, n) for cam in range(1, 7) for i in (1, 2, 3, 4) for n in (1, 2, 3)]
    return FeatureSet(
        erased=rng.normal(size=(len(keys), 6)),
        related=rng.normal(size=(len(keys), 5)) if related else None,
        ids=[identity for _, identity, _ in keys],
        cams=[cam for cam, _, _ in keys],
        modality=[int(cam in (3, 6)) for cam, _, _ in keys],
        paths=[f"cam{cam}/{identity:04d}/{number:04d}.jpg" for cam, identity, number in keys],
    )


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def columns(rows, *names):
    return {tuple(row[name] for name in names) for row in rows}
