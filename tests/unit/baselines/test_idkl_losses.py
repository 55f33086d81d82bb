"""IDKL's losses against literal loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin.baselines.idkl_losses import (
    LOSS_WEIGHTS,
    LossWeights,
    Split,
    class_alignment_loss,
    graph,
    graph_alignment_loss,
    modality_gap_loss,
    pseudo_modality,
    purified_entropy_loss,
    symmetric_kl,
)


def split(rows: int = 2, identities: int = 2, width: int = 3, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    size = (2, identities * rows, width)
    return Split(*torch.randn(*size, dtype=torch.float64, generator=generator), rows)


def probabilities(row: Tensor) -> list[float]:
    exps = [math.exp(x) for x in row.tolist()]
    return [x / sum(exps) for x in exps]


def literal_symmetric_kl(a: Tensor, b: Tensor) -> float:
    total = 0.0
    for one, other in zip(a, b, strict=True):
        for p, q in zip(probabilities(one), probabilities(other), strict=True):
            total += p * (math.log(p) - math.log(q)) + q * (math.log(q) - math.log(p))
    return total / len(a)


def test_symmetric_kl_equals_the_loop_and_pytorchs() -> None:
    a, b = split(width=5).pair
    found = symmetric_kl(a.requires_grad_(), b.requires_grad_())
    assert found.item() == pytest.approx(literal_symmetric_kl(a, b))
    ways = [(a, b), (b, a)]
    expected = sum(F.kl_div(x.log_softmax(1), y.softmax(1), reduction="batchmean") for x, y in ways)
    for x in (a, b):
        ours, theirs = (torch.autograd.grad(y, x, retain_graph=True)[0] for y in (found, expected))
        torch.testing.assert_close(ours, theirs)


def literal_graph(features: Tensor) -> Tensor:
    rows = []
    for i, f in enumerate(features):
        others = [(f - g).norm().clamp(min=1e-3) for j, g in enumerate(features) if j != i]
        rows.append(torch.stack(others))
    return torch.stack(rows)


def test_graph_equals_the_loop() -> None:
    features = split(identities=3).visible
    features[2] = features[1]
    torch.testing.assert_close(graph(features), literal_graph(features))
    again = features.requires_grad_()
    graph(again).sum().backward()
    assert again.grad is not None
    assert again.grad.isfinite().all()


@pytest.mark.parametrize("weights", LOSS_WEIGHTS.values(), ids=LOSS_WEIGHTS)
def test_graph_alignment_equals_the_loop(weights: LossWeights) -> None:
    shared, specific = split(), split(seed=1)
    mixed = torch.stack(
        [shared.visible[0], shared.visible[1], shared.infrared[0], shared.infrared[1]]
    )
    named = {"v": shared.visible, "i": shared.infrared, "m": mixed}
    named |= {"own v": specific.visible, "own i": specific.infrared}
    g = {name: literal_graph(x) for name, x in named.items()}
    pairs = {
        ("v", "i"): weights.graph,
        ("v", "m"): weights.graph_mixed,
        ("m", "i"): weights.graph_mixed,
        ("v", "own v"): weights.graph_specific,
        ("i", "own i"): weights.graph_specific,
    }
    expected = sum(w * literal_symmetric_kl(g[a], g[b]) for (a, b), w in pairs.items())
    assert graph_alignment_loss(shared, specific, weights).item() == pytest.approx(expected)


def test_loss_weights_are_the_published_ones() -> None:
    # Branches of the public code: a batch of 120 rows, and any other.
    assert LOSS_WEIGHTS["sysu"] == LossWeights(1.0, 1.0, 0.6, 0.8)
    assert LOSS_WEIGHTS["regdb"] == LossWeights(0.1, 0.0, 0.1, 0.3)


def test_class_alignment_equals_the_loop() -> None:
    shared, specific = split(width=4), split(width=4, seed=1)
    expected = literal_symmetric_kl(*shared.pair) + 0.3 * (
        literal_symmetric_kl(shared.visible, specific.visible)
        + literal_symmetric_kl(shared.infrared, specific.infrared)
    )
    assert class_alignment_loss(shared, specific, 0.3).item() == pytest.approx(expected)


def test_side_by_side_lays_the_identities_rows_beside_each_other() -> None:
    rows = split(rows=2, identities=3, width=4)
    beside = rows.side_by_side()
    assert beside.visible.shape == beside.infrared.shape == (2, 12)
    for before, after in zip(rows.pair, beside.pair, strict=True):
        for row in range(2):
            for identity in range(3):
                own = after[row, 4 * identity : 4 * identity + 4]
                assert torch.equal(own, before[2 * identity + row])


def test_purified_entropy_equals_the_loop() -> None:
    before, after = split(width=4, identities=4).pair

    def entropy(row: Tensor) -> float:
        return -sum(p * math.log(p) for p in probabilities(row))

    gains = [entropy(a) - entropy(b) for a, b in zip(after, before, strict=True)]
    assert min(gains) < 0 < max(gains), "the hinge is active for some rows and not for others"
    expected = sum(math.exp(max(gain, 0.0)) - 1 for gain in gains) / 8
    assert purified_entropy_loss(before, after).item() == pytest.approx(expected)


def test_modality_gap_equals_the_loop() -> None:
    before, after = split(identities=3), split(identities=3, seed=5)

    def gap(features: Split, identity: int) -> float:
        own = slice(2 * identity, 2 * identity + 2)
        difference = features.visible[own].mean(0) - features.infrared[own].mean(0)
        return float((difference + 1e-6).norm())  # as F.pairwise_distance has it

    gains = [gap(after, y) - gap(before, y) for y in range(3)]
    assert min(gains) < 0 < max(gains), "the hinge is active for some and not for others"
    expected = sum(max(gain, 0.0) for gain in gains) / 3
    assert modality_gap_loss(before, after).item() == pytest.approx(expected)


def test_pseudo_modality() -> None:
    turns = torch.tensor([True, False] * 4)
    assert pseudo_modality(turns).tolist() == [1, 0, 0, 1, 1, 0, 0, 1]
    other = torch.tensor([True, True, False, False, False, True])
    assert pseudo_modality(other).tolist() == [1, 1, 1, 0, 0, 1]
