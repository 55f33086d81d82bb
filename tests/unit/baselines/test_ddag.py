"""DDAG: every block and loss against a literal implementation; the loop's graph weight."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.common.losses import batch_hard_triplet_loss
from mixer_plugin.baselines.ddag import DDAG, GraphAttention, PartAttention, identity_graph
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.errors import MixERValueError

LABELS = torch.tensor([0, 0, 2, 2, 0, 0, 2, 2])


def small(**options: object) -> DDAG:
    torch.manual_seed(0)
    return create_baseline("ddag", 4, trunk="small", low_dim=8, **options)  # type: ignore[return-value]


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    modality = torch.tensor([0, 1]).repeat_interleave(4)
    images = torch.randn(8, 3, 32, 16, generator=generator)
    return Batch(images, LABELS, modality, 1 + 2 * modality)


def test_graph_is_the_normalised_sum_of_identities_and_selves() -> None:
    graph = identity_graph(LABELS)
    for i in range(len(LABELS)):
        row = [float(LABELS[i] == LABELS[j]) + float(i == j) for j in range(len(LABELS))]
        norm = math.sqrt(sum(value**2 for value in row))
        assert graph[i].tolist() == pytest.approx([value / norm for value in row])


@pytest.mark.parametrize("last", [False, True])
def test_graph_attention_equals_the_loop_over_pairs(last: bool) -> None:
    torch.manual_seed(0)
    layer = GraphAttention(5, 3, dropout=0.0, slope=0.2, last=last)
    nodes, graph = torch.randn(6, 5), (torch.rand(6, 6) > 0.5).float() + torch.eye(6)
    h = nodes @ layer.W
    rows = []
    for i in range(6):
        neighbours = [j for j in range(6) if graph[i, j] > 0]
        energy = [F.leaky_relu(torch.cat([h[i], h[j]]) @ layer.a[:, 0], 0.2) for j in neighbours]
        weights = torch.stack(energy).softmax(0)
        rows.append(sum(w * h[j] for w, j in zip(weights, neighbours, strict=True)))
    expected = torch.stack(rows)  # type: ignore[arg-type]
    torch.testing.assert_close(layer(nodes, graph), expected if last else F.elu(expected))


def test_graph_attention_drops_attention_in_training_alone() -> None:
    torch.manual_seed(0)
    layer = GraphAttention(5, 3, dropout=0.5, slope=0.2)
    nodes, graph = torch.randn(6, 5), torch.ones(6, 6)
    assert not torch.equal(layer(nodes, graph), layer(nodes, graph))
    layer.eval()
    assert torch.equal(layer(nodes, graph), layer(nodes, graph))


def test_part_attention_equals_the_loop_over_stripes() -> None:
    torch.manual_seed(0)
    layer = PartAttention(4, 3).eval()
    with torch.no_grad():
        layer.gate.copy_(torch.tensor([0.3, -1.0, 2.0]))
        layer.bottleneck.running_mean.normal_()  # type: ignore[union-attr]
    x, feature = torch.randn(2, 4, 6, 5), torch.randn(2, 4)

    def project(conv, stripe: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return conv.weight[:, :, 0, 0] @ stripe + conv.bias

    expected = []
    for image, own in zip(x, feature, strict=True):
        stripes = [image[:, 2 * p : 2 * p + 2].mean(dim=(1, 2)) for p in range(3)]
        context = []
        for p in range(3):
            query = project(layer.fc1[0], stripes[p])
            scores = torch.stack([query @ project(layer.fc2, s) for s in stripes]).softmax(0)
            context.append(sum(w * project(layer.fc3, s) for w, s in zip(scores, stripes)))  # noqa: B905
        gate = layer.gate.softmax(0)
        expected.append(own + sum(g * c for g, c in zip(gate, context)))  # type: ignore[misc]  # noqa: B905
    torch.testing.assert_close(layer(x, feature), layer.bottleneck(torch.stack(expected)))


def test_batch_hard_triplet_equals_the_loop() -> None:
    torch.manual_seed(0)
    features = torch.randn(8, 5)
    hinges = []
    for i in range(8):
        distances = [float((features[i] - row).norm()) for row in features]
        own = [d for d, y in zip(distances, LABELS, strict=True) if y == LABELS[i]]
        other = [d for d, y in zip(distances, LABELS, strict=True) if y != LABELS[i]]
        hinges.append(max(0.0, 0.3 + max(own) - min(other)))
    found = batch_hard_triplet_loss(features, LABELS, 0.3)
    assert found.item() == pytest.approx(sum(hinges) / 8, rel=1e-5)
    assert batch_hard_triplet_loss(features, torch.zeros(8).long()).item() == 0


def test_loss_is_the_sum_of_its_terms_and_the_graphs_weight_follows_the_epoch_before() -> None:
    net, loop = small(), create_loop("ddag")
    means = []
    for epoch in range(3):
        loop.start_epoch(net, epoch)
        expected = 0.0 if epoch == 0 else 1 / (1 + means[-1])
        assert float(loop.graph_weight) == pytest.approx(expected, rel=1e-5)
        seen = []
        for seed in range(2):
            loop.start_epoch(net, epoch)  # as on a resume: nothing changes
            step = loop(net, batch(seed))
            terms = {name: float(value) for name, value in step.terms.items()}
            plain = terms["id"] + terms["tri"] + terms["part"]
            seen.append(plain)
            total = plain + expected * terms["graph"]
            assert step.loss.item() == pytest.approx(total, rel=1e-5)
        means.append(sum(seen) / 2)
    assert expected > 0


def test_terms_are_those_of_the_outputs() -> None:
    net, loop = small(drop=0.0), create_loop("ddag")
    loop.start_epoch(net, 0)
    step = loop(net, batch())
    pooled, logits, part_logits, graph = step.outputs
    assert step.terms["id"].item() == pytest.approx(F.cross_entropy(logits, LABELS).item())
    assert step.terms["part"].item() == pytest.approx(F.cross_entropy(part_logits, LABELS).item())
    picked = -graph[torch.arange(8), LABELS].mean()
    assert step.terms["graph"].item() == pytest.approx(picked.item())
    assert torch.equal(step.labels, LABELS)
    torch.testing.assert_close(graph.exp().sum(1), torch.ones(8))
    assert pooled.shape == (8, 128)


def test_each_modality_has_its_own_stem() -> None:
    net = small().eval()
    images = batch().images
    visible, infrared = net(images, images, 0, 1)[1], net(images, images, 0, 2)[1]
    assert not torch.allclose(visible, infrared)
    both = net(images[:4], images[4:])[1]
    torch.testing.assert_close(both, torch.cat([visible[:4], infrared[4:]]))
    torch.testing.assert_close(both.norm(dim=1), torch.ones(8))


def test_errors_name_the_way_out() -> None:
    with pytest.raises(MixERValueError, match="part=0"):
        small(part=0)
    with pytest.raises(MixERValueError, match=r"drop is 1\.0"):
        small(drop=1.0)
    mixed = Batch(batch().images, LABELS.sort().values, batch().modality, batch().cams)
    with pytest.raises(MixERValueError, match="IdentitySampler\\(order='blocks'\\)"):
        create_loop("ddag")(small(), mixed)
