"""``mixer-calibrated`` on random galleries with equal, opposite and zero features."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores
from tests.literal_cohort import literal

RULE = "mixer-calibrated"


@st.composite
def sets(draw, least):
    """Features in {-1, 1}^4, and zero vectors: cosines are multiples of 1/2."""
    count = draw(st.integers(least, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    side = draw(st.sampled_from(["both", "visible", "infrared"]))
    modality = rng.integers(0, 2, count) if side == "both" else np.full(count, side == "infrared")
    zero = rng.random((count, 1)) < draw(st.sampled_from([0.0, 0.2]))
    erased, related = (rng.choice([-1.0, 1.0], (count, 4)) * ~zero for _ in range(2))
    labels = rng.integers(0, 3, count), rng.integers(1, 4, count)
    return FeatureSet(erased, related, *labels, modality.astype(int))


@given(sets(1), sets(1), st.integers(0, 2**32 - 1), st.sampled_from([None, "znorm"]))
def test_permuting_the_gallery_permutes_the_scores(query, gallery, seed, calibration):
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(gallery)))
    made = scores(query, gallery, RULE, calibration)
    again = scores(query, gallery[order], RULE, calibration)
    torch.testing.assert_close(again, made[:, order], atol=1e-5, rtol=0)


@given(sets(0), sets(1))
def test_random_sets_equal_the_definition(query, gallery):
    # Queries outside the gallery, then the gallery asking itself.
    for asked, own in ((query, [-1] * len(query)), (gallery, list(range(len(gallery))))):
        made = scores(asked, gallery, RULE, self_index=torch.tensor(own, dtype=torch.int64))
        np.testing.assert_allclose(made.numpy(), literal(asked, gallery, own), atol=1e-5)
