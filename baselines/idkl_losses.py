"""The losses of IDKL (Ren and Zhang, CVPR 2024), all in the precision of what they are given.

Their names are the paper's: IP, information purifier; TGSA, triplet graph structure alignment; CSA,
class semantic alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin.baselines.common.losses import pairwise_distances


@dataclass(frozen=True)
class LossWeights:
    """Weights of the alignment losses.

    Attributes:
        graph: of TGSA between the modalities' shared features.
        graph_mixed: of TGSA between each modality and a mixture of both.
        graph_specific: of TGSA between shared and specific features.
        logits_specific: of CSA between shared and specific logits, beside 1 between modalities.
    """

    graph: float
    graph_mixed: float
    graph_specific: float
    logits_specific: float


# Of the public code: for batches of exactly 120 rows (SYSU-MM01, LLCM), and for any other (RegDB).
LOSS_WEIGHTS = {
    "sysu": LossWeights(graph=1.0, graph_mixed=1.0, graph_specific=0.6, logits_specific=0.8),
    "regdb": LossWeights(graph=0.1, graph_mixed=0.0, graph_specific=0.1, logits_specific=0.3),
}


class Split(NamedTuple):
    """A batch's rows by modality, each identity by identity.

    Attributes:
        visible: [P * rows, D].
        infrared: [P * rows, D].
        rows: rows of one identity in one modality.
    """

    visible: Tensor
    infrared: Tensor
    rows: int

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Both modalities."""
        return self.visible, self.infrared

    @property
    def by_identity(self) -> tuple[Tensor, Tensor]:
        """Both modalities, [P, rows, D] each."""
        width = self.visible.shape[1]
        return self.visible.view(-1, self.rows, width), self.infrared.view(-1, self.rows, width)

    def side_by_side(self) -> Split:
        """An identity's rows beside the other identities': [rows, P * D] each."""
        visible, infrared = (x.transpose(0, 1).flatten(1) for x in self.by_identity)
        return Split(visible, infrared, self.rows)


def symmetric_kl(a: Tensor, b: Tensor) -> Tensor:
    """``mean_rows [KL(a || b) + KL(b || a)]`` of the softmax of scores [n, K] and [n, K]."""
    log_a, log_b = a.log_softmax(1), b.log_softmax(1)
    return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum() / len(a)


def graph(features: Tensor) -> Tensor:
    """Distances [n, n - 1] of each row [n, D] to the others, at least 1e-3."""
    n = len(features)
    distances = pairwise_distances(features, features).clamp(min=1e-3)
    # Cut into rows of n + 1 after the first entry, the matrix has its diagonal in the last column.
    return distances.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


def graph_alignment_loss(shared: Split, specific: Split, weights: LossWeights) -> Tensor:
    """Makes graphs of the batch alike: across modalities, and of shared and specific (TGSA).

    A graph holds each row's distances to the other rows. A third one, mixed, is that of the first
    half of the visible rows together with the first half of the infrared ones. They are compared by
    :func:`symmetric_kl`, row by row; the gradient flows through both sides.

    Args:
        shared: features before the neck, an even number per modality.
        specific: features before the neck.
        weights: of the three kinds of pairs.
    """
    half = len(shared.visible) // 2
    mixed = graph(torch.cat([rows[:half] for rows in shared.pair]))
    visible, infrared = (graph(rows) for rows in shared.pair)
    own_visible, own_infrared = (graph(rows) for rows in specific.pair)
    across = symmetric_kl(visible, infrared)
    halfway = symmetric_kl(visible, mixed) + symmetric_kl(mixed, infrared)
    distilled = symmetric_kl(visible, own_visible) + symmetric_kl(infrared, own_infrared)
    return (
        weights.graph * across + weights.graph_mixed * halfway + weights.graph_specific * distilled
    )


def class_alignment_loss(shared: Split, specific: Split, weight: float) -> Tensor:
    """Aligns the modalities' logits, and distils specific logits into shared ones (CSA).

    ``d(S_v, S_i) + weight [d(S_v, s_v) + d(S_i, s_i)]`` with d :func:`symmetric_kl`, S shared and s
    specific; the gradient flows through all.

    Args:
        shared: logits of the shared features.
        specific: logits of the specific features.
        weight: of the distillation.
    """
    distilled = symmetric_kl(shared.visible, specific.visible)
    distilled = distilled + symmetric_kl(shared.infrared, specific.infrared)
    return symmetric_kl(*shared.pair) + weight * distilled


def purified_entropy_loss(before: Tensor, after: Tensor) -> Tensor:
    """``mean [exp([H(after) - H(before)]_+) - 1]``: purified logits are to be surer (IP).

    Args:
        before: logits [B, C] of the raw specific feature.
        after: logits [B, C] of the purified one.
    """

    def entropy(logits: Tensor) -> Tensor:
        logs = logits.log_softmax(1)
        return -(logs.exp() * logs).sum(1)

    return (entropy(after) - entropy(before)).relu().expm1().mean()


def modality_gap_loss(before: Split, after: Split) -> Tensor:
    """``mean_y [gap_y(after) - gap_y(before)]_+``: purified features are to be nearer (IP).

    ``gap_y`` is the distance between the mean visible and the mean infrared feature of identity y.

    Args:
        before: instance-normalised specific features.
        after: the purified ones.
    """

    def gap(features: Split) -> Tensor:
        visible, infrared = features.by_identity
        return F.pairwise_distance(visible.mean(1), infrared.mean(1))

    return (gap(after) - gap(before)).relu().mean()


def pseudo_modality(infrared: Tensor) -> Tensor:
    """Labels [B] that confuse the modalities: the mask's first half, each twice, one place back.

    Rows in turns, ``1 0 1 0 …``, get ``1 0 0 1 1 0 0 1 …``: half of them the wrong modality.
    """
    return infrared.long().chunk(2)[0].repeat_interleave(2).roll(-1)
