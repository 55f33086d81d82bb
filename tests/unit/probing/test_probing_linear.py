"""Folds, ridge and logistic regression against slow, literal versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mixer_plugin.errors import MixERError, MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.probing import ProbeOptions
from mixer_plugin.probing.folds import balanced_rows, identity_folds, spread_rows
from mixer_plugin.probing.linear import Scaling, explained_variance, fit_logistic, ridge


def made(n, width, targets, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=g, dtype=torch.float64)
    y = torch.randn(n, targets, generator=g, dtype=torch.float64)
    return x - x.mean(0), y - y.mean(0)


@pytest.mark.parametrize(("n", "width"), [(40, 7), (9, 30)])
def test_ridge_solves_the_normal_equations(n, width):
    x, y = made(n, width, 3)
    asked = torch.eye(width, dtype=torch.float64)  # so that predictions are weights
    for alpha, w in zip((1e-3, 2.0), ridge(x, y, (1e-3, 2.0), asked), strict=True):
        expected = np.linalg.solve(
            x.numpy().T @ x.numpy() + alpha * n * np.eye(width), x.numpy().T @ y.numpy()
        )
        np.testing.assert_allclose(w, expected, atol=1e-9)
    (nothing,) = ridge(x, y, (math.inf,), asked)
    assert not nothing.any()


def test_explained_variance_is_what_a_literal_loop_says():
    g = torch.Generator().manual_seed(1)
    ids = torch.arange(12).repeat_interleave(4)
    x = torch.randn(48, 5, generator=g)
    y = x[:, :2] @ torch.randn(2, 3, generator=g) + torch.randn(48, 3, generator=g)
    folds, alphas = identity_folds(ids, 4, 0), (0.1, 10.0, math.inf)

    def fitted(rows, alpha, asked):
        a, b = x[rows].double().numpy(), y[rows].double().numpy()
        mean, target = a.mean(0), b.mean(0)
        size = np.sqrt(((a - mean) ** 2).mean())
        a = (a - mean) / size
        if math.isinf(alpha):
            w = np.zeros((5, 3))
        else:
            w = np.linalg.solve(a.T @ a + alpha * len(a) * np.eye(5), a.T @ (b - target))
        return (x[asked].double().numpy() - mean) / size @ w, target

    error, base = np.zeros(3), np.zeros(3)
    for fold in folds:
        losses = {}
        for alpha in alphas:
            guess, target = fitted(fold.train, alpha, fold.valid)
            losses[alpha] = ((y[fold.valid].double().numpy() - target - guess) ** 2).sum()
        best = min(losses, key=losses.get)
        guess, target = fitted(fold.seen, best, fold.test)
        wanted = y[fold.test].double().numpy() - target
        error += ((wanted - guess) ** 2).sum(0)
        base += (wanted**2).sum(0)
    found = explained_variance(x, y, folds, equal=False, alphas=alphas)
    np.testing.assert_allclose(found.each, 1 - error / base, atol=1e-9)
    assert found.total == pytest.approx(1 - error.sum() / base.sum())


def test_explained_variance_of_noise_is_zero_and_of_itself_one():
    g = torch.Generator().manual_seed(2)
    ids = torch.arange(80).repeat_interleave(8)
    codes = torch.randn(80, 64, generator=g)
    x = codes[ids] + torch.randn(640, 64, generator=g)
    y = torch.rand(80, 17, generator=g)[ids]
    folds = identity_folds(ids, 5, 0)
    assert abs(explained_variance(x, y, folds, equal=True).total) < 0.01
    assert explained_variance(x, x[:, :3], folds, equal=True).total > 0.999
    constant = explained_variance(torch.ones(640, 2), y, folds, equal=True)
    assert constant.total == 0


def test_logistic_regression_is_at_its_optimum():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(60, 4, generator=g, dtype=torch.float64)
    y = (x[:, 0] + 0.5 * torch.randn(60, generator=g) > 0.3).long()
    found = fit_logistic(x, y, 0.05)
    # Newton's method, literally.
    a = np.column_stack([x.numpy(), np.ones(60)])
    free = np.diag([0.05] * 4 + [0.0])
    w = np.zeros(5)
    for _ in range(30):
        p = 1 / (1 + np.exp(-a @ w))
        gradient = a.T @ (p - y.numpy()) / 60 + free @ w
        w -= np.linalg.solve(a.T @ (a * (p * (1 - p))[:, None]) / 60 + free, gradient)
    np.testing.assert_allclose(found, w, atol=1e-4)


def test_logistic_regression_is_scikit_learns():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is absent")
    g = torch.Generator().manual_seed(4)
    x = torch.randn(80, 6, generator=g, dtype=torch.float64)
    y = (x.sum(1) + torch.randn(80, generator=g) > 0).long()
    theirs = linear_model.LogisticRegression(C=1 / (80 * 0.02), tol=1e-10, max_iter=1000)
    theirs.fit(x.numpy(), y.numpy())
    expected = np.append(theirs.coef_[0], theirs.intercept_)
    np.testing.assert_allclose(fit_logistic(x, y, 0.02), expected, atol=1e-4)


def test_scaling_uses_one_number():
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    scaled = Scaling.of(x)(x)
    assert scaled.mean(0).abs().max() < 1e-12
    assert scaled.square().mean() == pytest.approx(1)
    assert scaled[1, 1] / scaled[1, 0] == pytest.approx(10)


def test_no_identity_is_in_two_parts_of_a_fold():
    ids = torch.tensor([5, 5, 9, 1, 1, 1, 30, 7, 7, 2])
    folds = identity_folds(ids, 3, 0)
    assert sorted(torch.cat([fold.test for fold in folds]).tolist()) == list(range(10))
    for fold in folds:
        parts = [set(ids[rows].tolist()) for rows in (fold.train, fold.valid, fold.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) == 6
    assert len(identity_folds(ids, 50, 0)) == 3
    assert len(identity_folds(torch.arange(11), 50, 0)) == 5
    with pytest.raises(MixERValueError, match="at least 3"):
        identity_folds(torch.tensor([1, 1, 2]), 5, 0)


def test_balanced_rows_take_equally_many_from_cameras_in_turns():
    # Identity 1: 5 visible of cameras 1, 1, 1, 1, 2 and 2 infrared; identity 2: visible only.
    images = FeatureSet(
        torch.zeros(9, 1),
        None,
        [1, 1, 1, 1, 1, 1, 1, 2, 2],
        [1, 1, 1, 1, 2, 3, 6, 1, 2],
        [0, 0, 0, 0, 0, 1, 1, 0, 0],
    )
    rows = balanced_rows(images, 100, 0)
    assert images.modality[rows].tolist().count(0) == images.modality[rows].tolist().count(1) == 2
    assert sorted(images.cams[rows].tolist()) == [1, 2, 3, 6]
    assert len(balanced_rows(images, 1, 0)) == 2
    visible = images[images.modality == 0]
    with pytest.raises(MixERValueError, match="both modalities"):
        balanced_rows(visible, 100, 0)


def test_spread_rows_take_what_identities_have():
    ids = torch.tensor([1] * 20 + [2] * 3 + [3] * 10)
    counts = torch.bincount(ids[spread_rows(ids, 15, 0)]).tolist()
    assert counts == [0, 6, 3, 6]
    assert spread_rows(ids, 33, 0).tolist() == list(range(33))


def test_options_are_checked():
    for values, error in (
        ({"folds": 2}, MixERValueError),
        ({"images": 0}, MixERValueError),
        ({"seed": 1.5}, MixERTypeError),
        ({"hidden": True}, MixERTypeError),
    ):
        with pytest.raises(error, match=next(iter(values))):
            ProbeOptions(**values)
        assert issubclass(error, MixERError)
