"""Galleries, and the search as sorting the whole score matrix, for the tests of the index."""

from __future__ import annotations

import numpy as np
import torch

from mixer_plugin import FeatureSet, scores
from mixer_plugin.search import MixedModalIndex


def make(count, seed=0, related=True, paths=True):
    """Images of six persons, who are told better within a modality than across."""
    codes = np.random.default_rng(9).normal(size=(3, 6, 12))
    rng = np.random.default_rng(seed)
    ids, modality = rng.integers(0, 6, count), rng.integers(0, 2, count)
    erased = codes[2, ids] + np.where(modality == 1, 1.0, 0.3)[:, None] * rng.normal(
        size=(count, 12)
    )
    own = codes[modality, ids, :7] + 0.5 * rng.normal(size=(count, 7))
    return FeatureSet(
        erased=erased,
        related=own if related else None,
        ids=ids,
        cams=rng.integers(1, 5, count),
        modality=modality,
        paths=[f"set{seed}/{i}.jpg" for i in range(count)] if paths else None,
    )


def write_page_files(folder):
    """The files that the pages on searching speak of."""
    gallery = make(200)
    gallery.save(folder / "gallery.npz")
    FeatureSet.concatenate([gallery[:5], make(10, 1)]).save(folder / "query.npz")
    make(10, 2).save(folder / "new.npz")


def build(features, *args, **options):
    return MixedModalIndex.build(features, *args, device="cpu", **options)


def ranked(query, gallery, rule="mixer", calibration=None, forbidden=None):
    """Keys and scores by sorting the whole matrix, as lists; forbidden bool [Q, N]."""
    matrix = scores(query, gallery, rule, calibration)
    result = []
    for i, line in enumerate(matrix.tolist()):
        allowed = [j for j in range(len(line)) if forbidden is None or not forbidden[i][j]]
        result.append(sorted((-line[j], j) for j in allowed))
    return result


def check(hits, expected, k, atol=1e-6):
    """Scores to ``atol``; keys wherever the scores on both sides of a rank differ by more."""
    assert hits.keys.shape == hits.scores.shape == (len(expected), k)
    assert hits.scores.dtype == torch.float32
    assert hits.keys.dtype == torch.int64
    for i, line in enumerate(expected):
        count = min(k, len(line))
        assert (hits.keys[i, count:] == -1).all()
        assert (hits.scores[i, count:] == -torch.inf).all()
        want = torch.tensor([-value for value, _ in line])
        torch.testing.assert_close(hits.scores[i, :count], want[:count], atol=atol, rtol=0)
        known = {key: -value for value, key in line}
        found = hits.keys[i, :count].tolist()
        assert len(set(found)) == count
        for rank, key in enumerate(found):
            assert abs(known[key] - want[rank]) <= atol
    return hits
