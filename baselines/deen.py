"""DEEN (Zhang and Wang, CVPR 2023), written to be equal to the public code ZYK100/LLCM.

Attribute and parameter names are the public model's on every path that counts; what the public
model builds and never uses is left out (:data:`BASELINE` ``.dead``).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.losses import (
    at_least_float32,
    batch_hard_triplet_loss,
    pairwise_distances,
)
from mixer_plugin.baselines.common.two_stems import (
    DEAD_STEMS,
    TwoStemNetwork,
    frozen_bias_norm,
    reid_linear,
)
from mixer_plugin.baselines.loops import (
    Baseline,
    Batch,
    ScriptLoop,
    Step,
    halves,
    mined_blocks,
    mined_rows,
)
from mixer_plugin.errors import MixERValueError


class Expansion(nn.Module):
    """Diverse embedding expansion (model.py: ``DEE_module``): two learned variants of every map.

    A variant is the mean of three dilated convolutions, ReLU, and a projection back.

    Args:
        channels: channels C of the map.
        drop: rate of dropout on the result.
    """

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        for branch in (1, 2):
            for dilation in (1, 2, 3):
                wide = nn.Conv2d(
                    channels, channels // 4, 3, padding=dilation, dilation=dilation, bias=False
                )
                self.add_module(f"FC{branch}{dilation}", wide)
            self.add_module(f"FC{branch}", nn.Conv2d(channels // 4, channels, 1))
        self.dropout = nn.Dropout(drop)
        for part in self.children():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [3 N, C, H, W]: the maps as they are, then both variants."""
        return self.dropout(torch.cat([x, self._variant(x, 1), self._variant(x, 2)]))

    def _variant(self, x: Tensor, branch: int) -> Tensor:
        parts = [self.get_submodule(f"FC{branch}{dilation}")(x) for dilation in (1, 2, 3)]
        return self.get_submodule(f"FC{branch}")(F.relu(sum(parts) / 3))


class _NonLocal(nn.Module):
    """Adds to a stage's map what its input map holds, weighted by how the two agree.

    Args:
        high: channels of the stage's map.
        low: channels of its input map.
        inner: channels in between.
        key_stride: stride at which the input map is compared.
        out_stride: stride at which it is added.
    """

    def __init__(
        self, high: int, low: int, inner: int, key_stride: int = 1, out_stride: int = 1
    ) -> None:
        super().__init__()
        self.g = nn.Conv2d(low, inner, 1)
        self.theta = nn.Conv2d(high, inner, 1)
        self.phi = nn.Conv2d(low, inner, 1, key_stride)
        self.W = nn.Sequential(nn.Conv2d(inner, high, 1, out_stride), nn.BatchNorm2d(high))
        nn.init.zeros_(self.W[1].weight)  # type: ignore[arg-type]


class ChannelNonLocal(_NonLocal):
    """Channels of the two maps attend to each other (model.py: ``CNL``).

    Args:
        high: channels H of the stage's map.
        low: channels L of its input map.
        stride: of the stage.
    """

    def __init__(self, high: int, low: int, stride: int) -> None:
        super().__init__(high, low, low, stride, stride)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """[B, H, h, w] and [B, L, h * stride, w * stride] to [B, H, h, w]."""
        query, key = self.theta(high).flatten(2), self.phi(low).flatten(2)  # [B, L, hw] each
        attention = query @ key.transpose(1, 2) / key.shape[1]  # [B, L, L]
        values = self.g(low)
        mixed = (attention @ values.flatten(2)).view_as(values)
        return high + self.W(mixed)


class PositionNonLocal(_NonLocal):
    """Positions of the two maps attend to each other (model.py: ``PNL``).

    As in the public code, which views L / 2 channels as L, the upper and the lower half of an image
    are compared side by side: a pair of positions, one of each, has one weight. The attention has
    no softmax, so the small products come first: nothing of size positions x positions is ever
    made, which at the public image size would take gigabytes.

    Args:
        high: channels H of the stage's map.
        low: channels L of its input map.
    """

    def __init__(self, high: int, low: int) -> None:
        super().__init__(high, low, low // 2)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """[B, H, h, w] and [B, L, ., .] to [B, H, h, w].

        Raises:
            MixERValueError: for maps that have no two halves.
        """
        projected = self.theta(high)
        query, key, values = (_split(x) for x in (projected, self.phi(low), self.g(low)))
        memory = values @ (key / key.shape[2]).transpose(1, 2)  # [B, L, L]
        return high + self.W((memory @ query).view_as(projected))


def _split(x: Tensor) -> Tensor:
    """[B, C, h, w] to [B, 2 C, h * w / 2]: the first and the last half of every channel."""
    positions = x.shape[2] * x.shape[3]
    if positions % 2:
        raise MixERValueError(
            f"DEEN compares halves of a map, and {x.shape[2]}x{x.shape[3]} positions have none. "
            "Choose an image size that gives every stage an even number of positions, "
            "e.g. a height that is a multiple of 32."
        )
    return x.reshape(x.shape[0], 2 * x.shape[1], positions // 2)


class Aggregation(nn.Module):
    """Multistage feature aggregation (model.py: ``MFA_block``): joins a stage's map and its input.

    Args:
        high: channels of the stage's map.
        low: channels of its input map.
        stride: of the stage.
    """

    def __init__(self, high: int, low: int, stride: int) -> None:
        super().__init__()
        self.CNL = ChannelNonLocal(high, low, stride)
        self.PNL = PositionNonLocal(high, low)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """The stage's map [B, high, h, w] and its input [B, low, ., .] to [B, high, h, w]."""
        return self.PNL(self.CNL(high, low), low)


class DEEN(TwoStemNetwork):
    """A stem per modality, aggregation after every stage but the last, expansion before that.

    The expansion triples the rows: N images give 3 N, as they are and in two learned variants, in
    blocks. In training, ``net(visible, infrared)`` returns the pooled feature [6B, D], the logits
    [6B, C] and the similarity of the two variants; in evaluation, ``net(images, images, modal)``
    with ``modal`` 1 (visible) or 2 (infrared) returns the pooled feature before and after the
    neck, [3B, D] each, L2-normalised.

    Args:
        dataset: on RegDB the network ends with ``layer3`` and has one aggregation less.
        drop: rate of dropout on the expanded maps.

    Raises:
        MixERValueError: for a value out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        trunk: str = "resnet50",
        dataset: str = "sysu",
        weights: str | Path | None = None,
        drop: float = 0.01,
    ) -> None:
        if not 0 <= drop < 1:
            raise MixERValueError(f"drop is {drop}; expected a probability in [0, 1).")
        last = 3 if dataset == "regdb" else 4
        super().__init__(trunk, weights, last=last)
        widths, self.last = self.widths, last
        self.DEE = Expansion(widths[last - 1], drop)
        for i in range(1, last):
            join = Aggregation(widths[i], widths[i - 1], stride=1 if i == 1 else 2)
            self.add_module(f"MFA{i}", join)
        self.bottleneck = frozen_bias_norm(widths[last])
        self.classifier = reid_linear(widths[last], num_classes)
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x1: Tensor, x2: Tensor, modal: int = 0) -> tuple[Tensor, ...]:
        """See the class and :meth:`stem_maps`."""
        x = self.stem_maps(x1, x2, modal)
        for i in range(1, self.last):
            x = self.get_submodule(f"MFA{i}")(self._stage(i)(x), x)
        pooled = self.avgpool(self._stage(self.last)(self.DEE(x))).flatten(1)
        feature = self.bottleneck(pooled)
        if not self.training:
            return F.normalize(pooled), F.normalize(feature)
        _, first, second = pooled.chunk(3)
        return pooled, self.classifier(feature), (first * second).sum() / len(pooled)

    def _stage(self, number: int) -> nn.Module:
        return self.base_resnet.get_submodule(f"base.layer{number}")


def center_pair_loss(
    original: Tensor, variant: Tensor, labels: Tensor, margin: float = 0.2
) -> Tensor:
    """Center-guided pair mining (loss.py: ``CPMLoss``) for one variant.

    With v, i the batch centres of an identity's visible and infrared rows, and v', i' those of
    their variants, the mean over identities of ::

        ( hinge(|i - v'|, |v - v'|) + 1/2 hinge(|i - v'|, near(v')) + 1/2 hinge(|i - v'|, near(v))
        + hinge(|v - i'|, |i - i'|) + 1/2 hinge(|v - i'|, near(i')) + 1/2 hinge(|v - i'|, near(i))
        ) / 2

    where ``hinge(a, b) = [margin + a - b]_+``, ``near(c)`` is the distance to the nearest centre of
    another identity among those of c's kind, and no gradient flows through |v - v'| and |i - i'|:
    a variant of one modality is drawn to the other modality. The public loss takes rows grouped by
    identity; here the labels say which rows belong together.

    Args:
        original: features [2B, D], visible rows, then infrared ones of the same identities.
        variant: features [2B, D] of the same rows after one branch of the expansion.
        labels: [2B] int64.
        margin: of the hinges.
    """
    labels = labels[: len(labels) // 2]
    # In half precision, means and their small distances would be mostly rounding.
    with torch.autocast(original.device.type, enabled=False):
        visible, infrared = (_centers(x, labels) for x in original.chunk(2))
        visible_variant, infrared_variant = (_centers(x, labels) for x in variant.chunk(2))
        return (
            _drawn_across(visible, infrared, visible_variant, margin)
            + _drawn_across(infrared, visible, infrared_variant, margin)
        ) / 2


def _centers(features: Tensor, labels: Tensor) -> Tensor:
    """Means [n, D] of rows [B, D] over each identity, in float32 at least."""
    features = at_least_float32(features)
    member = (labels == torch.unique(labels)[:, None]).to(features.dtype)
    return member @ features / member.sum(1, keepdim=True)


def _drawn_across(own: Tensor, other: Tensor, variant: Tensor, margin: float) -> Tensor:
    across = pairwise_distances(other, variant).diagonal()
    home = pairwise_distances(own, variant).diagonal().detach()
    near = [_nearest_other(centers) for centers in (variant, own)]
    hinges = [(margin + across - bound).relu().mean() for bound in (home, *near)]
    return hinges[0] + 0.5 * (hinges[1] + hinges[2])


def _nearest_other(centers: Tensor) -> Tensor:
    distances = pairwise_distances(centers, centers)
    own = torch.eye(len(centers), dtype=torch.bool, device=centers.device)
    return distances.masked_fill(own, torch.inf).min(1).values


class DEENLoop(ScriptLoop):
    """Identity and triplet loss on all rows, pair mining on each variant, and their similarity."""

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        """One training forward; terms ``id``, ``tri``, ``cpm``, ``ort``, without their weights."""
        visible, infrared = halves(batch)
        outputs = net(visible, infrared)
        features, logits, similarity = outputs
        labels = batch.labels.repeat(3)
        original, *variants, pairs = mined_blocks(net, *features.chunk(3), batch.labels)
        mined = [center_pair_loss(original, variant, pairs) for variant in variants]
        rows, identities = mined_rows(net, features, labels)
        terms = {
            "id": F.cross_entropy(logits, labels),
            "tri": batch_hard_triplet_loss(rows, identities, margin=0.3),
            "cpm": mined[0] + mined[1],
            "ort": similarity,
        }
        total = terms["id"] + terms["tri"] + 0.8 * terms["cpm"] + 0.01 * terms["ort"]
        return Step(outputs, total, {k: v.detach() for k, v in terms.items()}, batch.labels)


BASELINE = Baseline(
    network=DEEN,
    loop=DEENLoop,
    dead={
        **DEAD_STEMS,
        r"base_resnet\.base\.layer4\..*": "the stage that the RegDB variant leaves out",
    },
)
