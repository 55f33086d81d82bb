import contextlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from mixer_plugin.heads import (
    LinearHead,
    RelatedHead,
    clone_stage,
    counter_dropout,
    private_random,
    reverse_gradient,
)


@pytest.mark.parametrize("scale", [1.0, 0.1, torch.tensor(0.25)])
def test_reversal_is_the_identity_forward_and_minus_scale_backward(scale):
    x = torch.randn(3, 4, requires_grad=True)
    y = reverse_gradient(x, scale)
    assert torch.equal(x, y)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, -float(scale)))


def test_counter_dropout_is_unbiased_repeatable_and_draws_nothing():
    x = torch.ones(400, 500, dtype=torch.float64)
    before = torch.get_rng_state()
    first = counter_dropout(x, 0.3, torch.tensor(7))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, counter_dropout(x, 0.3, torch.tensor(7)))
    other = counter_dropout(x, 0.3, torch.tensor(8))
    zeros, others = first == 0, other == 0
    assert zeros.double().mean() == pytest.approx(0.3, abs=0.005)
    assert (zeros & others).double().mean() == pytest.approx(0.09, abs=0.005)  # independent masks
    for axis in (0, 1):  # and neither rows nor columns favoured
        assert (zeros.double().mean(axis) - 0.3).abs().max() < 0.12
    assert first.mean() == pytest.approx(1.0, abs=0.01)
    assert set(first.unique().tolist()) == {0.0, 1 / 0.7}
    assert counter_dropout(x, 0.0, torch.tensor(7)) is x


def test_private_random_puts_the_global_state_back():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with private_random(torch.device("cpu"), 5):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with private_random(torch.device("cpu"), 5):
        assert torch.equal(torch.rand(3), inside)


def test_clone_stage_copies_weights_but_no_hooks_and_no_freezing():
    stage = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval().requires_grad_(False)
    calls = []
    stage.register_forward_hook(lambda *_: calls.append(1))
    stage[0].register_forward_pre_hook(lambda *_: calls.append(1))
    clone = clone_stage(stage)
    clone(torch.randn(2, 3, 4, 4))
    assert not calls
    assert all(p.requires_grad for p in clone.parameters())
    assert all(m.training for m in clone.modules())
    assert torch.equal(clone[0].weight, stage[0].weight)
    assert clone[0].weight is not stage[0].weight
    assert not any(p.requires_grad for p in stage.parameters())


DRAWS = {
    "nothing": lambda: None,
    "torch": lambda: torch.rand(2),
    "python": random.random,
    "numpy": lambda: np.random.rand(2),  # what foreign code calls
}


@pytest.mark.parametrize("name", DRAWS)
def test_private_random_notices_a_draw_and_puts_every_state_back(name):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    before = states()
    with private_random(torch.device("cpu"), 3) as drew:
        assert not drew()
        first = DRAWS[name]()
        assert drew() == (name != "nothing")
    assert states() == before
    with private_random(torch.device("cpu"), 3):
        assert str(DRAWS[name]()) == str(first)
    with contextlib.suppress(ZeroDivisionError), private_random(torch.device("cpu"), 3):
        DRAWS[name]()
        raise ZeroDivisionError
    assert states() == before


def test_related_head_shields_its_statistics_from_a_single_row():
    head = RelatedHead(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), 4).train()
    before = {k: v.clone() for k, v in head.state_dict().items()}
    with head.batch_of(1):
        head.norm(head.stage(torch.randn(1, 4)))
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())
    assert all(m.training for m in head.modules())
    with head.batch_of(2):
        head.norm(head.stage(torch.randn(2, 4)))
    assert not torch.equal(head.norm.running_mean, before["norm.running_mean"])


def test_linear_head_has_no_bias():
    head = LinearHead(3, 2)
    assert [n for n, _ in head.named_parameters()] == ["weight"]
    assert torch.equal(head(torch.zeros(1, 3)), torch.zeros(1, 2))
