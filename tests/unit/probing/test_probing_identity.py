"""Identity probes and independence against literal versions and planted cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mixer_plugin.features import FeatureSet
from mixer_plugin.losses import unit
from mixer_plugin.probing.constraints import constraints
from mixer_plugin.probing.folds import identity_folds
from mixer_plugin.probing.identity import probe_identity, prototype_cosines
from mixer_plugin.probing.independence import info_nce, linear_cka, probe_independence
from tests.unit.probing.test_probing_modality import images_of, noise


def codes(images, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(int(images.ids.max()) + 1, width, generator=g)[images.ids]


def test_identity_of_a_feature_that_is_the_identity_and_of_noise():
    images = images_of(30, 6)
    x = codes(images, 32) + 0.1 * noise(images, 32, 5)
    for probe in probe_identity(x, images):
        assert probe.mAP > 0.99
        assert probe.r1 > 0.99
        assert probe.bits > probe.most - 0.1
        assert probe.chance_mAP < 0.5
    g = torch.Generator().manual_seed(1)
    for probe in probe_identity(torch.randn(len(images), 16, generator=g), images):
        assert probe.mAP == pytest.approx(probe.chance_mAP, abs=0.06)
        assert probe.aligned_mAP == pytest.approx(probe.chance_mAP, abs=0.06)
        assert abs(probe.bits) < 0.05


def test_spaces_of_their_own_hold_identity_across_only_after_alignment():
    images = images_of(60, 6)
    x = codes(images, 12)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(3)))[0]
    x = torch.where(images.modality[:, None] == 1, x @ turn, x) + 0.02 * noise(images, 12, 5)
    across = {probe.pairs: probe for probe in probe_identity(x, images)}["across"]
    assert across.mAP < 0.5
    assert across.aligned_mAP > 0.9
    assert across.bits > across.most / 2


def test_identities_of_one_camera_have_no_match_within():
    images = images_of(20, 4)
    cams = 1 + images.ids % 2 + 5 * images.modality
    images = FeatureSet(images.erased, None, images.ids, cams, images.modality)
    within, across = probe_identity(codes(images, 8), images)
    assert all(math.isnan(v) for v in (within.mAP, within.aligned_r1, within.bits))
    assert across.mAP > 0.9


@pytest.mark.parametrize("cameras", [2, 1])
@pytest.mark.parametrize("pairs", ["within", "across"])
def test_prototypes_are_those_of_a_literal_loop(cameras, pairs):
    images = images_of(4, 3)
    if cameras == 1:
        images = FeatureSet(images.erased, None, images.ids, 3 * images.modality, images.modality)
    images = images[torch.arange(len(images)) != 3]
    x = noise(images, 5)
    found, own = prototype_cosines(x, images, pairs)
    vectors = unit(x.double())
    for q in range(len(x)):
        for column, identity in enumerate(sorted(set(images.ids.tolist()))):
            rows = []
            for g in range(len(x)):
                if images.ids[g] != identity or g == q:
                    continue
                same = bool(images.modality[g] == images.modality[q])
                if same != (pairs == "within"):
                    continue
                if same and cameras > 1 and images.cams[g] == images.cams[q]:
                    continue
                rows.append(g)
            if not rows:
                assert found[q, column] == -math.inf
                continue
            mean = vectors[rows].mean(0)
            assert found[q, column] == pytest.approx(float(vectors[q] @ mean / mean.norm()))
        expected = sorted(set(images.ids.tolist())).index(int(images.ids[q]))
        assert own[q] == (expected if found[q, expected] > -math.inf else -1)


def test_cka_is_the_unbiased_estimate_over_all_quadruples():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 3, generator=g), torch.randn(7, 2, generator=g)
    b[:, 0] += a[:, 1]

    def hsic(x, y):
        k = (x - x.mean(0)).double() @ (x - x.mean(0)).double().T
        m = (y - y.mean(0)).double() @ (y - y.mean(0)).double().T
        # Of Gretton et al.: E k_ij m_ij + E k_ij m_qr - 2 E k_ij m_iq over distinct rows.
        pairs = list(itertools.permutations(range(7), 2))
        triples = list(itertools.permutations(range(7), 3))
        fours = list(itertools.permutations(range(7), 4))
        one = np.mean([k[i, j] * m[i, j] for i, j in pairs])
        two = np.mean([k[i, j] * m[q, r] for i, j, q, r in fours])
        three = np.mean([k[i, j] * m[i, q] for i, j, q in triples])
        return one + two - 2 * three

    expected = hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b))
    assert linear_cka(a, b) == pytest.approx(float(expected), rel=1e-6)
    assert linear_cka(a, torch.ones(7, 2)) == 0


def test_independence_of_independent_and_of_equal_features():
    images = images_of(60, 6)
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(len(images), 24, generator=g) for _ in range(2))
    for row in probe_independence(a, b, images):
        assert row.cosine == pytest.approx(row.chance, abs=0.02)
        assert abs(row.cka) < 0.02
        assert abs(row.related_from_erased) < 0.01
        assert abs(row.erased_from_related) < 0.01
        assert row.bits < 0.01
    for row in probe_independence(a, a, images):
        assert row.cosine == pytest.approx(1)
        assert row.cka == pytest.approx(1)
        assert row.related_from_erased == pytest.approx(1)
        assert row.bits == pytest.approx(row.most)
    assert [row.images for row in probe_independence(a, a, images)] == [
        "all",
        "visible",
        "infrared",
    ]


def test_orthogonal_features_need_not_be_independent():
    images = images_of(60, 6)
    a = noise(images, 8)
    b = torch.cat([-a[:, 4:], a[:, :4]], dim=1)  # a turn by a right angle
    row = probe_independence(a, b, images)[0]
    assert row.cosine < 1e-6
    assert row.related_from_erased > 0.999
    assert row.cka > 0.999


def test_modality_alone_makes_features_dependent_over_all_images():
    images = images_of(60, 6)
    g = torch.Generator().manual_seed(0)
    side = images.modality[:, None] * 4.0
    a, b = (torch.randn(len(images), 6, generator=g) + side for _ in range(2))
    whole, visible, infrared = probe_independence(a, b, images)
    assert whole.cka > 0.8
    assert max(abs(visible.cka), abs(infrared.cka)) < 0.05
    assert whole.bits > 0.5
    assert max(visible.bits, infrared.bits) < 0.05


def test_widths_that_do_not_fit_have_no_cosine():
    images = images_of(10, 4)
    rows = probe_independence(noise(images, 6), noise(images, 4, 1), images)
    assert all(math.isnan(row.cosine) for row in rows)
    blocks = probe_independence(noise(images, 8), noise(images, 4, 1), images)
    assert all(0 < row.cosine < 1 for row in blocks)


def test_info_nce_stays_below_the_gaussians_information():
    ids = torch.arange(200).repeat_interleave(4)
    g = torch.Generator().manual_seed(0)
    a = torch.randn(800, 4, generator=g)
    b = 0.8 * a + 0.6 * torch.randn(800, 4, generator=g)
    bits, most = info_nce(a, b, identity_folds(ids, 5, 0))
    truth = -4 / 2 * math.log2(1 - 0.8**2)
    assert 0.4 * truth < float(bits.mean()) < truth
    assert most == pytest.approx(math.log2(160))


def test_constraints_take_the_best_probe_and_the_right_rows():
    modality = [
        {"bits": 0.1, "bits_ci": (0.0, 0.2)},
        {"bits": 0.4, "bits_ci": (0.3, 0.5)},
    ]
    independence = [
        {"images": "all", "bits": 3.0, "bits_ci": (2.0, 4.0), "most": 8.0},
        {"images": "visible", "bits": 1.0, "bits_ci": (0.5, 1.5), "most": 7.0},
        {"images": "infrared", "bits": 2.0, "bits_ci": (1.5, 2.5), "most": 7.0},
    ]
    identity = [
        {"pairs": "within", "bits": 5.0, "bits_ci": (4.0, 6.0), "most": 6.0},
        {"pairs": "across", "bits": 0.5, "bits_ci": (0.0, 1.0), "most": 6.0},
    ]
    found = {row["name"]: row for row in constraints(modality, independence, identity)}
    assert [row["bits"] for row in found.values()] == [0.4, 3.0, 1.5, 5.0, 0.5]
    assert found["erased-related-given-modality"]["bits_ci"] == [1.0, 2.0]
    assert found["erased-modality"]["most"] == 1
    assert [row["name"] for row in constraints(modality)] == ["erased-modality"]
