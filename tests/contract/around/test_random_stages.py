"""Stages that draw random numbers in whatever way: the base's random numbers stay its own."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixer_plugin import mixer_loss, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from tests.contract.toys import PlainNet, make_batch


class GradientNoise(torch.autograd.Function):
    """Identity whose backward adds noise."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad + 1e-3 * torch.randn_like(grad)


def drop_path(x):
    """Stochastic depth by row (Huang et al., 2016)."""
    return x * (torch.rand(len(x), 1, 1, 1) > 0.3)


NOISE = {
    "functional dropout": lambda x: F.dropout(x, 0.2),
    "torch.rand": lambda x: x + torch.rand_like(x),
    "drop path": drop_path,
    "torch's gradient noise": GradientNoise.apply,
    "in-place bernoulli": lambda x: x * torch.empty_like(x).bernoulli_(0.8),
    "python's random": lambda x: x * random.uniform(0.9, 1.1),
    "numpy's random": lambda x: x * np.random.uniform(0.9, 1.1),  # foreign code
}


class NoisyStage(nn.Module):
    """A stage whose attributes do not tell that it draws; from step ``since`` on it does."""

    def __init__(self, body: nn.Module, noise: str, since: int) -> None:
        super().__init__()
        self.body, self.noise, self.since, self.calls = body, noise, since, 0

    def forward(self, x):
        x = self.body(x)
        self.calls += self.training
        return NOISE[self.noise](x) if self.training and self.calls > self.since else x


def trained(noise: str, since: int, mode: str | None, **config: object) -> dict[str, torch.Tensor]:
    """The base's state after four steps, and the next number of each global random state."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = PlainNet()
    model.layer4 = NoisyStage(model.layer4, noise, since)
    own = list(model.parameters())
    if mode is not None:
        wrap_with_mixer(model, mode, adapter=GenericAdapter("layer4", "avgpool"), seed=1)
    optimizer = torch.optim.SGD(own, lr=0.1)
    for step in range(4):
        batch = make_batch(step)
        _, logits = model.train()(batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        if mode is not None:
            loss = loss + mixer_loss(model, batch.labels, batch.modality)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("mixer.")}
    drawn = [torch.rand(1).item(), random.random(), np.random.rand()]
    return {**state, "drawn": torch.tensor(drawn, dtype=torch.float64)}


@pytest.mark.parametrize("since", [0, 2], ids=["always", "from the third step on"])
@pytest.mark.parametrize("noise", NOISE)
def test_mode_f_leaves_the_base_bit_identical(noise, since):
    alone, wrapped = trained(noise, since, None), trained(noise, since, "f")
    assert list(alone) == list(wrapped)
    assert [key for key in alone if not torch.equal(alone[key], wrapped[key])] == []
