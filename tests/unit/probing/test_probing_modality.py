"""Modality probes: a planted bit is found, noise is not, controls stay at chance."""

from __future__ import annotations

import pytest
import torch

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.losses import unit
from mixer_plugin.probing import ProbeOptions
from mixer_plugin.probing.folds import identity_folds, permuted_within
from mixer_plugin.probing.modality import PROBES, held_out, knn_probe, probe_modality


def images_of(identities=40, each=8, seed=0):
    """Identities with as many visible (cameras 1, 2) as infrared images (cameras 3, 6)."""
    ids = torch.arange(identities).repeat_interleave(2 * each)
    modality = torch.tensor([0] * each + [1] * each).repeat(identities)
    cams = torch.tensor(([1, 2] * each)[:each] + ([3, 6] * each)[:each]).repeat(identities)
    return FeatureSet(torch.zeros(len(ids), 1), None, ids, cams, modality)


def noise(images, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randn(int(images.ids.max()) + 1, width, generator=g)
    return codes[images.ids] + torch.randn(len(images), width, generator=g)


def test_a_planted_bit_is_found_and_its_control_is_at_chance():
    images = images_of()
    x = noise(images, 16)
    x[:, 5] = images.modality * 4.0 + 0.1 * x[:, 5]
    found = {probe.probe: probe for probe in probe_modality(x, images)}
    assert set(found) == {"linear", "mlp", "knn"}
    assert found["linear"].accuracy > 0.99
    assert found["linear"].bits > 0.9
    assert found["mlp"].accuracy > 0.99
    for probe in found.values():
        assert 0.43 < probe.control < 0.57
        assert probe.selectivity == probe.accuracy - probe.control
        assert probe.images == 640
        assert probe.identities == 40
        assert probe.accuracy_ci[0] <= probe.accuracy <= probe.accuracy_ci[1]


@pytest.mark.slow
def test_a_bit_that_only_an_mlp_sees():
    images = images_of(60)
    x = 0.1 * noise(images, 2)
    g = torch.Generator().manual_seed(9)
    sign = torch.randint(0, 2, (len(x),), generator=g) * 2.0 - 1
    x[:, 0] += sign
    x[:, 1] += sign * (images.modality * 2.0 - 1)  # exclusive or
    found = {probe.probe: probe.accuracy for probe in probe_modality(x, images)}
    assert found["linear"] < 0.6
    assert found["mlp"] > 0.95


def test_noise_is_at_chance():
    images = images_of()
    for probe in probe_modality(noise(images, 32), images):
        assert 0.43 < probe.accuracy < 0.57
        assert probe.bits < 0.02


def test_what_identities_give_away_is_no_modality():
    # Each identity leans to one side, which tells the modality of none.
    images = images_of(identities=20)
    x = noise(images, 4)
    x[:, 0] = (images.ids % 2) * 10.0
    for probe in probe_modality(x, images):
        assert abs(probe.accuracy - 0.5) < 0.1


def test_neighbours_vote_as_in_a_literal_loop():
    images = images_of(6, 3)
    x = noise(images, 3)
    options = ProbeOptions(neighbours=5)
    fold = identity_folds(images.ids, 3, 0)[0]
    logits = knn_probe(x, images.modality, fold, options)
    known = unit(x)[fold.seen]
    for row, logit in zip(fold.test.tolist(), logits.tolist(), strict=True):
        order = sorted(range(len(known)), key=lambda i: -float(known[i] @ unit(x)[row]))
        ones = sum(int(images.modality[fold.seen][i]) for i in order[:5])
        assert logit == pytest.approx(float(torch.tensor((ones + 1) / (6 - ones)).log()))


def test_probes_repeat_and_leave_the_random_state_alone():
    images = images_of(10, 4)
    x = noise(images, 8)
    folds = identity_folds(images.ids, 5, 0)
    before = torch.random.get_rng_state()
    for classify in PROBES.values():
        first, second = (
            held_out(classify, x, images.modality, folds, ProbeOptions()) for _ in range(2)
        )
        assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_control_labels_keep_each_identitys_counts():
    images = images_of(12, 4)
    control = images.modality[permuted_within(images.ids, (0, 3))]
    assert not torch.equal(control, images.modality)
    for identity in range(12):
        assert control[images.ids == identity].sum() == 4


def test_images_of_one_modality_are_refused():
    images = images_of(10)
    with pytest.raises(MixERValueError, match="both modalities"):
        probe_modality(noise(images, 4)[images.modality == 0], images[images.modality == 0])
