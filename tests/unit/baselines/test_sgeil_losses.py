"""SGEIL's losses against literal loops."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin.baselines.sgeil_losses import (
    balance,
    complement_loss,
    consistency_loss,
    mutual_loss,
    orthogonality_loss,
    soft_cross_entropy,
)


def literal_soft(logits: Tensor, teacher: Tensor) -> Tensor:
    loss = torch.zeros((), dtype=logits.dtype)
    for row, other in zip(logits, teacher, strict=True):
        target = other.exp() / other.exp().sum()
        loss = loss - sum(
            t.detach() * (x - row.exp().sum().log()) for t, x in zip(target, row, strict=True)
        )
    return loss / len(logits)


def test_soft_and_mutual_cross_entropy_equal_the_loop() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    v, i = logits.chunk(2)
    torch.testing.assert_close(soft_cross_entropy(v, i), literal_soft(v, i))
    expected = literal_soft(v, i) + literal_soft(i, v)
    torch.testing.assert_close(mutual_loss(logits), expected)
    grads = [torch.autograd.grad(x, logits)[0] for x in (mutual_loss(logits), expected)]
    torch.testing.assert_close(*grads)


def test_complement_equals_the_loop() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([2, 0, 2, 0, 2])
    logits = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    shapes = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    (v, i), (sv, si) = logits.chunk(2), shapes.detach().chunk(2)
    cos = torch.nn.functional.cosine_similarity
    expected = literal_soft(v, i) + literal_soft(i, v)
    for own, other, here, there in ((v, i, sv, si), (i, v, si, sv)):
        teachers = []
        for row in range(5):
            mates = [m for m in range(5) if labels[m] == labels[row]]
            teachers.append(min(mates, key=lambda m: float(cos(here[row], there[m], dim=0))))
        assert teachers != list(range(5))
        expected = expected + literal_soft(own, other[teachers])
    found = complement_loss(logits, shapes, labels.repeat(2))
    torch.testing.assert_close(found, expected)
    found.backward()
    assert shapes.grad is None
    assert logits.grad is not None


def test_consistency_equals_the_loop_and_spares_the_classifier() -> None:
    torch.manual_seed(0)
    part = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    taught = {"zp": torch.randn(4, 3).double(), "logit": torch.randn(4, 5).double()}
    distance = (
        sum(
            float((a - b) ** 2)
            for a, b in zip(part.detach().flatten(), taught["zp"].flatten(), strict=True)
        )
        / 12
    )
    expected = distance + float(literal_soft(part @ weight.T, taught["logit"]).detach())
    loss = consistency_loss(part, taught, weight)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert weight.grad is None
    assert part.grad is not None


def test_orthogonality_equals_the_loop() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(6, 3, dtype=torch.float64)
    total = 0.0
    for a, b in itertools.product(range(3), range(3)):
        cosine = F.cosine_similarity(matrix[:, a], matrix[:, b], dim=0)
        total += abs(float(cosine) - (a == b)) / 3
    assert float(orthogonality_loss(matrix)) == pytest.approx(total, rel=1e-9)
    assert float(orthogonality_loss(3 * torch.eye(6)[:, :3])) == pytest.approx(0, abs=1e-6)


def test_weights_are_the_shares_of_the_gradients() -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(3, 3, dtype=torch.float64)
    first, second = features.pow(2).sum(), (features @ other).sin().sum()
    w1, w2 = balance(first, second, features)
    a = (2 * features).norm(dim=1).mean()
    b = ((features @ other).cos() @ other.T).norm(dim=1).mean()
    torch.testing.assert_close((w1, w2), ((2 * a / (a + b)).detach(), (2 * b / (a + b)).detach()))
    assert float(w1 + w2) == pytest.approx(2)
    assert not w1.requires_grad
    (w1 * first + w2 * second).backward()  # the graph is still there
    assert features.grad is not None
