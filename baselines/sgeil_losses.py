"""SGEIL's losses (Feng et al., CVPR 2023; jiawei151/SGIEL_VIReID: loss.py and train.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean cross-entropy of logits [B, C] with a teacher's softmax [B, C], taken as constant."""
    return F.cross_entropy(logits, teacher.detach().softmax(1))


def mutual_loss(logits: Tensor) -> Tensor:
    """Each modality taught by the other, row by row; [2B, C], visible, then infrared rows."""
    visible, infrared = logits.chunk(2)
    return soft_cross_entropy(visible, infrared) + soft_cross_entropy(infrared, visible)


def complement_loss(logits: Tensor, shapes: Tensor, labels: Tensor) -> Tensor:
    """Teaches the shape-erased feature of a row by rows of the other modality.

    Its teachers are its partner there and, of the rows of its identity, the one that is least like
    it in shape (smallest cosine of shape features); loss.py: ``shape_cpmt_cross_modal_ce``.

    Args:
        logits: of the shape-erased features [2B, C], visible, then infrared rows.
        shapes: shape features [2B, D].
        labels: [2B] int64, the second half as the first.
    """
    visible, infrared = logits.chunk(2)
    labels = labels[: len(visible)]
    a, b = F.normalize(shapes).chunk(2)
    cosine = (a @ b.T).masked_fill(labels[:, None] != labels[None, :], torch.inf)
    return (
        mutual_loss(logits)
        + soft_cross_entropy(visible, infrared[cosine.argmin(1)])
        + soft_cross_entropy(infrared, visible[cosine.argmin(0)])
    )


def orthogonality_loss(projection: Tensor) -> Tensor:
    """How far the columns of a matrix [D, d] are from orthogonal: the mean of their sums |cos|."""
    basis = F.normalize(projection, dim=0)
    products = basis.T @ basis
    eye = torch.eye(len(products), dtype=products.dtype, device=products.device)
    return (products - eye).abs().sum(1).mean()


def consistency_loss(shape_part: Tensor, taught: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """Draws the images' shape part to what the twin sees in the body shapes (train.py).

    Args:
        shape_part: [2B, d], the images' projection.
        taught: the twin's ``zp`` [2B, d] and ``logit`` [2B, C] of the shapes.
        weight: [C, d] of the shape classifier, which gets no gradient from here.
    """
    distance = (shape_part - taught["zp"]).pow(2).mean()
    return distance + soft_cross_entropy(F.linear(shape_part, weight.detach()), taught["logit"])


def balance(
    consistent: Tensor,
    without_shape: Tensor,
    features: Tensor,
    gather: Callable[[Tensor], Tensor] = lambda sizes: sizes,
) -> tuple[Tensor, Tensor]:
    """Weights of two losses, in proportion to the gradient of each; they sum to 2.

    Args:
        consistent: scalar.
        without_shape: scalar.
        features: [2B, D] before the neck, on which both depend.
        gather: makes of the two gradients' sizes, [1, 2], those of all processes, [W, 2].
    """
    sizes = torch.stack(
        [
            torch.autograd.grad(loss, features, retain_graph=True)[0].norm(dim=1).mean()
            for loss in (consistent, without_shape)
        ]
    )
    first, second = gather(sizes[None]).mean(0)
    return 2 * first / (first + second), 2 * second / (first + second)
