"""DDAG (Ye et al., ECCV 2020), written to be equal to the public code mangye16/DDAG.

Attribute and parameter names are the public model's on every path that counts; what the public
model builds and never uses is left out (:data:`BASELINE` ``.dead``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.losses import batch_hard_triplet_loss
from mixer_plugin.baselines.common.two_stems import (
    DEAD_STEMS,
    TwoStemNetwork,
    frozen_bias_norm,
    reid_linear,
)
from mixer_plugin.baselines.loops import Baseline, Batch, ScriptLoop, Step, halves, mined_rows
from mixer_plugin.errors import MixERValueError


class PartAttention(nn.Module):
    """Intra-modality weighted part attention (IWPA; paper sec. 3.1).

    Horizontal stripes of the map attend to each other; their learned mean is added to the global
    feature, which a batch norm of its own then closes.

    Args:
        channels: channels D of the map.
        parts: number of stripes P.
    """

    def __init__(self, channels: int, parts: int) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Conv2d(channels, channels, 1))
        self.fc2 = nn.Conv2d(channels, channels, 1)
        self.fc3 = nn.Conv2d(channels, channels, 1)
        self.bottleneck = frozen_bias_norm(channels)
        self.gate = nn.Parameter(torch.full((parts,), 1 / parts))

    def forward(self, stage_map: Tensor, feature: Tensor) -> Tensor:
        """Map [B, D, H, W] and global feature [B, D] to [B, D]."""
        stripes = F.adaptive_avg_pool2d(stage_map, (len(self.gate), 1))
        query, key, value = (
            project(stripes).flatten(2) for project in (self.fc1, self.fc2, self.fc3)
        )
        attention = (query.transpose(1, 2) @ key).softmax(-1)  # [B, P, P]
        context = value @ attention.transpose(1, 2)  # [B, D, P]
        return self.bottleneck(context @ self.gate.softmax(0) + feature)


class GraphAttention(nn.Module):
    """One head of graph attention (Veličković et al., 2018; paper eq. 7).

    Args:
        inputs: columns of a node's feature.
        outputs: columns of the result.
        dropout: rate on the attention.
        slope: of the leaky ReLU.
        last: leave out the ELU.
    """

    def __init__(
        self, inputs: int, outputs: int, dropout: float, slope: float, last: bool = False
    ) -> None:
        super().__init__()
        self.dropout, self.slope, self.last = dropout, slope, last
        self.W = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, outputs), gain=1.414))
        self.a = nn.Parameter(nn.init.xavier_uniform_(torch.empty(2 * outputs, 1), gain=1.414))

    def forward(self, nodes: Tensor, graph: Tensor) -> Tensor:
        """Nodes [N, inputs] and edge weights [N, N] (an edge where > 0) to [N, outputs]."""
        h = nodes @ self.W
        start, end = self.a.chunk(2)
        energy = F.leaky_relu(h @ start + (h @ end).T, self.slope)
        attention = energy.masked_fill(graph <= 0, -torch.inf).softmax(1)
        h = F.dropout(attention, self.dropout, self.training) @ h
        return h if self.last else F.elu(h)


class DDAG(TwoStemNetwork):
    """A stem per modality, shared stages, part attention, and a graph over the batch in training.

    In training, ``net(visible, infrared, graph)``, with edge weights [2B, 2B] of the batch's graph,
    returns the pooled feature [2B, D], the logits of both features and the graph's
    log-probabilities [2B, C]; in evaluation,
    ``net(images, images, 0, modal)`` with ``modal`` 1 (visible) or 2 (infrared) returns two
    L2-normalised features [B, D], global and with parts. The second one is for retrieval.

    The defaults are the public ones, the same for every data set.

    Args:
        dataset: without effect on the network.
        low_dim: columns of a graph attention head.
        drop: rate of dropout in the graph.
        part: number of stripes.
        alpha: slope of the graph's leaky ReLU.
        nheads: number of graph attention heads.

    Raises:
        MixERValueError: for values out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        trunk: str = "resnet50",
        dataset: str = "sysu",
        weights: str | Path | None = None,
        low_dim: int = 512,
        drop: float = 0.2,
        part: int = 3,
        alpha: float = 0.2,
        nheads: int = 4,
    ) -> None:
        if part < 1 or nheads < 1 or low_dim < 1:
            raise MixERValueError(
                f"DDAG got part={part}, nheads={nheads}, low_dim={low_dim}; expected at least 1 "
                "each."
            )
        if not 0 <= drop < 1:
            raise MixERValueError(f"drop is {drop}; expected a probability in [0, 1).")
        super().__init__(trunk, weights)
        width = self.widths[4]
        self.dropout, self.nheads = drop, nheads
        self.bottleneck = frozen_bias_norm(width)
        self.classifier = reid_linear(width, num_classes)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.wpa = PartAttention(width, part)
        for i in range(nheads):
            self.add_module(f"attention_{i}", GraphAttention(width, low_dim, drop, alpha))
        self.out_att = GraphAttention(low_dim * nheads, num_classes, drop, alpha, last=True)

    def forward(
        self, x1: Tensor, x2: Tensor, adj: Any = 0, modal: int = 0, cpa: bool = False
    ) -> tuple[Tensor, ...]:
        """See the class and :meth:`stem_maps`; ``cpa`` has no effect, as in the public code."""
        stage_map = self.base_resnet(self.stem_maps(x1, x2, modal))
        pooled = self.avgpool(stage_map).flatten(1)
        feature = self.bottleneck(pooled)
        with_parts = self.wpa(stage_map, feature)
        if not self.training:
            return F.normalize(feature), F.normalize(with_parts)
        nodes = F.dropout(pooled, self.dropout)
        heads = [self.get_submodule(f"attention_{i}") for i in range(self.nheads)]
        nodes = F.dropout(torch.cat([head(nodes, adj) for head in heads], dim=1), self.dropout)
        graph = F.elu(self.out_att(nodes, adj)).log_softmax(1)
        return pooled, self.classifier(feature), self.classifier(with_parts), graph


class DDAGLoop(ScriptLoop):
    """Identity, triplet and part losses, and the graph's with a weight that grows as they fall.

    The weight of an epoch is ``1 / (1 + mean loss of the epoch before)``, 0 in the first; the mean
    is over identity, triplet and part loss, without the graph's.

    The graph needs no rows of other processes: its edges stay within an identity.
    """

    graph_weight: Tensor
    summed: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("graph_weight", "summed", "steps"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def start_epoch(self, net: nn.Module, epoch: int) -> None:
        """Sets the graph's weight from the mean loss of the epoch that ended."""
        if int(self.epoch) != epoch:
            if self.steps > 0:
                self.graph_weight.copy_(1 / (1 + self.summed / self.steps))
            self.summed.zero_()
            self.steps.zero_()
        super().start_epoch(net, epoch)

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        """One training forward; terms ``id``, ``tri``, ``part``, ``graph``."""
        visible, infrared = halves(batch)
        labels = batch.labels
        outputs = net(visible, infrared, identity_graph(labels))
        pooled, logits, part_logits, graph = outputs
        rows, identities = mined_rows(net, pooled, labels)
        terms = {
            "id": F.cross_entropy(logits, labels),
            "tri": batch_hard_triplet_loss(rows, identities, margin=0.3),
            "part": F.cross_entropy(part_logits, labels),
            "graph": F.nll_loss(graph, labels),
        }
        loss = terms["id"] + terms["tri"] + terms["part"]
        (everyones,) = mined_rows(net, loss.detach().double().reshape(1))
        self.summed += everyones.mean().cpu()  # the loop may not be where the network is
        self.steps += 1
        total = loss + self.graph_weight.to(loss.dtype) * terms["graph"]
        return Step(outputs, total, {k: v.detach() for k, v in terms.items()}, labels)

    def look(self, net: nn.Module, batch: Batch) -> Any:
        """One forward of a network in eval mode on rows of both modalities; it needs no graph."""
        return net(*halves(batch), 0)


def identity_graph(labels: Tensor) -> Tensor:
    """Edges [N, N] between rows of one identity, a row's own counted twice; rows of norm 1."""
    graph = (labels[:, None] == labels[None, :]).float()
    graph = graph + torch.eye(len(labels), device=labels.device)
    return F.normalize(graph, dim=1)


BASELINE = Baseline(
    network=DDAG,
    loop=DDAGLoop,
    dead={
        **DEAD_STEMS,
        r"classifier[12]\.weight": "classifiers that no forward uses",
        r"wpa\.W\..*": "an output projection of IWPA that its forward skips",
    },
)
