from __future__ import annotations

import numpy as np
import pytest
import torch

from mixer_plugin.evaluation import evaluate, get_protocol
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching import scores
from mixer_plugin.matching.rules import RULES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def make(exact, count=400):
    rng = np.random.default_rng(0)
    modality = rng.integers(0, 2, count)
    ids = rng.integers(1, 20, count)
    if exact:  # cosines are multiples of 1/8, the same on every device; many tie
        erased, related = (rng.choice([-1.0, 1.0], (count, 16)) for _ in range(2))
    else:
        codes = rng.normal(size=(20, 32))
        erased, related = (codes[ids] + 2 * rng.normal(size=(count, 32)) for _ in range(2))
    return FeatureSet(erased, related, ids, rng.integers(1, 4, count) + 3 * modality, modality)


@pytest.mark.parametrize("calibration", [None, "znorm", "center"])
def test_scores_on_both_devices(calibration):
    features = make(exact=False)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # TF32 elsewhere must not reach the scores
    try:
        for rule in RULES:
            there = scores(features.to("cuda"), features.to("cuda"), rule, calibration)
            here = scores(features, features, rule, calibration)
            assert there.is_cuda
            torch.testing.assert_close(there.cpu(), here, atol=2e-5, rtol=1e-5)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("cmc", ["dedup", "standard"])
def test_exact_scores_give_the_same_rows(cmc):
    features = make(exact=True)
    protocol = get_protocol("full", cmc=cmc)
    here = evaluate(features, protocol, query="both")
    there = evaluate(features, protocol, query="both", device="cuda")
    for one, two in zip(here.rows, there.rows, strict=True):
        for name in ("r1", "r5", "r10", "r20", "mAP", "mINP", "mAP_optimistic", "mAP_pessimistic"):
            assert getattr(one, name) == pytest.approx(getattr(two, name), abs=1e-12)
        assert one.mean_positives == two.mean_positives


def test_rounded_scores_give_nearly_the_same_rows():
    features = make(exact=False)
    options = {"query": "both", "calibration": (None, "znorm", "center")}
    here = evaluate(features, "full", **options)
    there = evaluate(features, "full", device="cuda", **options)
    for one, two in zip(here.rows, there.rows, strict=True):
        assert one.mAP == pytest.approx(two.mAP, abs=1e-4)
