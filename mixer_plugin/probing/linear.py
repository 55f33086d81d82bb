"""Linear probes: ridge regression in closed form, logistic regression to its optimum; in float64.

Both are fitted on features that were centred and divided by one number, their root mean square:
neither a rotation nor a scale of the feature changes what they predict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin.probing.folds import Fold

ALPHAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, math.inf)
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
SHARPNESS = tuple(2.0**k for k in range(-2, 9))  # factors of cosines in a softmax
_LEAST = 1e-300  # a constant feature stays zero
_STEPS, _FLAT = 50, 1e-10


@dataclass(frozen=True)
class Scaling:
    """Centres features and divides them by their root mean square."""

    mean: Tensor
    size: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Scaling:
        """The scaling that fits features [n, D]."""
        x = x.double()
        mean = x.mean(0)
        return cls(mean, (x - mean).square().mean().sqrt().clamp_min(_LEAST))

    def __call__(self, x: Tensor) -> Tensor:
        """Scaled features, float64 [n, D]."""
        return (x.double() - self.mean) / self.size


def ridge(x: Tensor, y: Tensor, alphas: Sequence[float], asked: Tensor) -> list[Tensor]:
    """Predictions of ridge regression for several penalties, by one eigendecomposition.

    Minimises |y - x w|² + alpha n |w|² (Hoerl and Kennard, Technometrics 1970).

    Args:
        x: float64 [n, D], centred.
        y: float64 [n, T], centred.
        alphas: Penalties > 0; infinity predicts zeros.
        asked: float64 [m, D].

    Returns:
        ``asked w``, float64 [m, T], one for each penalty.
    """
    n, width = x.shape
    if n >= width:
        values, vectors = torch.linalg.eigh(x.T @ x)
        left, right = asked @ vectors, vectors.T @ (x.T @ y)
    else:
        values, vectors = torch.linalg.eigh(x @ x.T)
        left, right = asked @ x.T @ vectors, vectors.T @ y
    values = values.clamp_min(0)[:, None]
    return [left @ (right / (values + alpha * n)) for alpha in alphas]


@dataclass(frozen=True)
class Explained:
    """Share of variance explained on unseen identities.

    Attributes:
        total: Over all targets together.
        each: float64 [T], of each target.
    """

    total: float
    each: Tensor


def explained_variance(
    x: Tensor, y: Tensor, folds: Sequence[Fold], *, equal: bool, alphas: Sequence[float] = ALPHAS
) -> Explained:
    """R² of targets from features by ridge regression, on unseen identities.

    1 - squared error / squared error of the training mean, both summed over the test rows of all
    folds. Against the test rows' own mean, features that know nothing would be below 0 by about two
    over the number of identities; against the training mean they are at 0, and infinite penalty is
    among the choices.

    Args:
        x: Features [N, D].
        y: Targets [N, T].
        folds: Of identities.
        equal: Whether ``total`` counts all targets alike (each in units of its own deviation), or
            by their variance, which a rotation of the targets leaves alone.
        alphas: Penalties; the validation identities choose one of them for all targets.
    """
    y = y.double()
    if equal:
        y = y / y.std(0, correction=0).clamp_min(_LEAST)
    error = torch.zeros(y.shape[1], dtype=torch.float64, device=y.device)
    base = torch.zeros_like(error)
    for fold in folds:
        scaling, mean = Scaling.of(x[fold.train]), y[fold.train].mean(0)
        wanted = y[fold.valid] - mean
        tried = ridge(scaling(x[fold.train]), y[fold.train] - mean, alphas, scaling(x[fold.valid]))
        losses = [float((wanted - guess).square().sum()) for guess in tried]
        # Of equal losses the strongest penalty: what does not help is left out.
        best = max(range(len(alphas)), key=lambda i: (-losses[i], alphas[i]))
        scaling, mean = Scaling.of(x[fold.seen]), y[fold.seen].mean(0)
        wanted = y[fold.test] - mean
        known = scaling(x[fold.seen]), y[fold.seen] - mean
        (guess,) = ridge(*known, alphas[best : best + 1], scaling(x[fold.test]))
        error += (wanted - guess).square().sum(0)
        base += wanted.square().sum(0)
    each = 1 - error / base.clamp_min(_LEAST)
    return Explained(float(1 - error.sum() / base.sum().clamp_min(_LEAST)), each)


def fit_logistic(x: Tensor, y: Tensor, penalty: float, start: Tensor | None = None) -> Tensor:
    """Logistic regression: the minimum of mean log loss + penalty / 2 |w|²; the bias is free.

    By Newton's method with halved steps; of features wider than there are rows, in the rows' span,
    where the minimum lies.

    Args:
        x: float64 [n, D], scaled.
        y: [n] of 0 and 1.
        penalty: > 0.
        start: Weights to begin at, [D + 1].

    Returns:
        Weights and, last, the bias: float64 [D + 1].
    """
    if len(x) < x.shape[1]:
        basis, inner = torch.linalg.qr(x.T)
        begin = None if start is None else torch.cat([basis.T @ start[:-1], start[-1:]])
        found = fit_logistic(inner.T, y, penalty, begin)
        return torch.cat([basis @ found[:-1], found[-1:]])
    a = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    target, free = y.to(x.dtype), x.new_full((a.shape[1],), penalty)
    free[-1] = 0
    w = x.new_zeros(a.shape[1]) if start is None else start.clone()

    def loss(w: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(a @ w, target) + (free * w * w).sum() / 2

    for _ in range(_STEPS):
        told = (a @ w).sigmoid()
        gradient = a.T @ (told - target) / len(a) + free * w
        if gradient.abs().max() < _FLAT:
            break
        curvature = (a * (told * (1 - told) / len(a))[:, None]).T @ a + torch.diag(free + _FLAT)
        step = torch.linalg.solve(curvature, gradient)
        now, gain, size = loss(w), gradient @ step, 1.0
        while loss(w - size * step) > now - 1e-4 * size * gain and size > 1e-6:
            size /= 2
        w = w - size * step
    return w
