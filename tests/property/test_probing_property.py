"""What must not change what probes say: rotations, scales, shifts, the order of images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_plugin.features import FeatureSet
from mixer_plugin.losses import unit
from mixer_plugin.probing import ProbeOptions
from mixer_plugin.probing.folds import balanced_rows, identity_folds, spread_rows
from mixer_plugin.probing.independence import linear_cka
from mixer_plugin.probing.linear import explained_variance
from mixer_plugin.probing.modality import knn_probe, linear_probe

SEEDS = st.integers(0, 10_000)
SCALES = st.floats(0.01, 100.0)


def drawn(seed, width=6, identities=9, each=4):
    """Features of identities, half of whose images are infrared, which they tell a little."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.arange(identities).repeat_interleave(each)
    modality = torch.arange(len(ids)) % 2
    x = torch.randn(identities, width, generator=g)[ids]
    x = x + torch.randn(len(ids), width, generator=g, dtype=torch.float64)
    x[:, 0] += 1.5 * modality
    turn = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64))[0]
    return x.double(), ids, modality, turn


@settings(max_examples=15)
@given(seed=SEEDS, scale=SCALES)
def test_rotation_scale_and_shift_do_not_change_linear_probes(seed, scale):
    x, ids, modality, turn = drawn(seed)
    moved = scale * x @ turn + 3.0
    folds = identity_folds(ids, 3, 0)
    y = x[:, :2].roll(1, 0) + x[:, 2:4]
    one, other = (explained_variance(v, y, folds, equal=True).total for v in (x, moved))
    assert one == pytest.approx(other, abs=1e-6)
    # Of targets, too, where they count by their variance.
    one, other = (
        explained_variance(y, v, folds, equal=False).total for v in (x, scale * x @ turn + 3.0)
    )
    assert one == pytest.approx(other, abs=1e-6)
    one, other = (linear_probe(v, modality, folds[0], ProbeOptions()) for v in (x, moved))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@settings(max_examples=15)
@given(seed=SEEDS, scale=SCALES)
def test_rotation_and_scale_do_not_change_neighbours(seed, scale):
    x, ids, modality, turn = drawn(seed)
    fold = identity_folds(ids, 3, 0)[0]
    options = ProbeOptions(neighbours=5)
    # Where the sixth is as near as the fifth, rounding decides.
    cosines = (unit(x[fold.test]) @ unit(x[fold.seen]).T).sort(dim=1, descending=True).values
    clear = (cosines[:, 4] - cosines[:, 5]) > 1e-4
    one, other = (knn_probe(v, modality, fold, options) for v in (x, scale * x @ turn))
    assert torch.equal(one[clear], other[clear])


@given(seed=SEEDS, scale=SCALES)
def test_cka_is_symmetric_invariant_and_one_for_the_same(seed, scale):
    x, _, _, turn = drawn(seed)
    y, _, _, _ = drawn(seed + 1, width=4)
    value = linear_cka(x, y)
    assert value == pytest.approx(linear_cka(y, x), abs=1e-9)
    assert value == pytest.approx(linear_cka(scale * x @ turn + 1, y), abs=1e-6)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    assert value == pytest.approx(linear_cka(x[order], y[order]), abs=1e-9)
    assert linear_cka(x, scale * x @ turn) == pytest.approx(1, abs=1e-6)
    assert value <= 1 + 1e-6


@given(data=st.data(), seed=SEEDS, limit=st.integers(1, 80))
def test_balanced_rows_balance_whatever_the_images(data, seed, limit):
    count = data.draw(st.integers(4, 60))
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 6, (count,), generator=g)
    modality = torch.randint(0, 2, (count,), generator=g)
    ids[:2], modality[:2] = 0, torch.tensor([0, 1])
    cams = torch.randint(1, 4, (count,), generator=g) + 3 * modality
    images = FeatureSet(torch.zeros(count, 1), None, ids, cams, modality)
    rows = balanced_rows(images, limit, seed)
    assert rows.tolist() == sorted(set(rows.tolist()))
    both = set(ids[modality == 0].tolist()) & set(ids[modality == 1].tolist())
    assert set(ids[rows].tolist()) == both
    assert len(rows) <= max(limit, 2 * len(both))
    for identity in both:
        kept = [rows[(ids[rows] == identity) & (modality[rows] == m)] for m in (0, 1)]
        assert len(kept[0]) == len(kept[1])
        for m, own in enumerate(kept):  # no camera is left behind while another gives more
            there = torch.bincount(cams[(ids == identity) & (modality == m)], minlength=8)
            taken = torch.bincount(cams[own], minlength=8)
            short = taken[(taken < there)]
            assert not len(short) or int(taken.max()) - int(short.min()) <= 1


@given(seed=SEEDS, limit=st.integers(1, 60), count=st.integers(1, 60))
def test_spread_rows_are_as_even_as_they_can_be(seed, limit, count):
    ids = torch.randint(0, 5, (count,), generator=torch.Generator().manual_seed(seed))
    rows = spread_rows(ids, limit, seed)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == min(limit, count)
    there, taken = (torch.bincount(v, minlength=5) for v in (ids, ids[rows]))
    short = taken[taken < there]
    assert not len(short) or int(taken.max()) - int(short.min()) <= 1
