"""Losses that several of the six codebases share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64: half precision would cancel to noise."""
    return x if x.dtype == torch.float64 else x.float()


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [n, m] of rows [n, D] and [m, D], at least 1e-6; float32 at least."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = at_least_float32(a), at_least_float32(b)
        squares = a.pow(2).sum(1)[:, None] + b.pow(2).sum(1)[None, :]
        return (squares - 2 * a @ b.T).clamp(min=1e-12).sqrt()


def batch_hard_triplet_loss(features: Tensor, labels: Tensor, margin: float = 0.3) -> Tensor:
    """Mean over rows of ``[margin + furthest of its own - nearest of another]_+``.

    Hermans et al., In Defense of the Triplet Loss, 2017, as DDAG, DEEN, SGEIL and IDKL have it. A
    row counts among its own; a batch of one identity costs nothing.

    Args:
        features: [B, D].
        labels: [B] int64.
        margin: of the hinge.
    """
    distances = pairwise_distances(features, features)
    same = labels[:, None] == labels[None, :]
    own = distances.masked_fill(~same, -torch.inf).max(1).values
    other = distances.masked_fill(same, torch.inf).min(1).values
    return (own - other + margin).relu().mean()


def center_separation_loss(
    features: Tensor, labels: Tensor, pull_margin: float = 0.01, push_margin: float = 0.7
) -> Tensor:
    """Pulls rows to the centre of their identity and pushes the centres apart.

    ``mean_i [|f_i - c_{y_i}| - pull]_+  +  mean_y mean_{j: y_j != y} [push - |c_y - c_{y_j}|]_+``

    where ``c_y`` is the mean of the batch's rows of identity y, both modalities together. The
    public loss takes every ``k_size``-th row as anchor, which is one per identity in a batch of
    ``k_size`` rows each; here it is one per identity whatever the order of rows. A batch of one
    identity has nothing to push.

    Args:
        features: [B, D].
        labels: [B] int64.
        pull_margin: distance to the own centre that costs nothing.
        push_margin: distance between two centres from which on it costs nothing.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = at_least_float32(features)
        same = (labels[:, None] == labels[None, :]).to(features.dtype)
        count = same.sum(1)
        centers = same @ features / count[:, None]
        pull = ((features - centers).pow(2).sum(1).clamp(min=1e-12).sqrt() - pull_margin).relu()

        squares = centers.pow(2).sum(1)
        distances = squares[:, None] + squares[None, :] - 2 * centers @ centers.T
        hinge = (push_margin - distances.clamp(min=1e-12).sqrt()).relu() * (1 - same)
        push = hinge.sum(1) / (1 - same).sum(1).clamp(min=1)
        # Rows of one identity have the same push: 1 / count makes them one anchor.
        return pull.mean() + (push / count).sum() / (1 / count).sum()


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over rows; zero, with a gradient, where there are none.

    A batch of one modality leaves no rows to the other's classifier: a plain mean is NaN there, and
    DDP wants a gradient for every parameter.
    """
    return F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of rows whose largest logit is their label's."""
    return (logits.argmax(1) == labels).float().mean()
