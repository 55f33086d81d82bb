"""Measures the dependence between two features of the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.evaluation.statistics import cluster_bootstrap
from mixer_plugin.features import FeatureSet
from mixer_plugin.losses import orthogonal, unit
from mixer_plugin.probing.folds import Fold, identity_folds, spread_rows
from mixer_plugin.probing.linear import ALPHAS, SHARPNESS, Scaling, explained_variance, ridge
from mixer_plugin.probing.options import ProbeOptions


@dataclass(frozen=True, kw_only=True)
class Independence:
    """How far the erased and the related features of the same images depend on each other.

    Attributes:
        images: ``all``, ``visible`` or ``infrared``: modality itself makes features dependent that
            are independent within each.
        cosine: Mean |cos| of a pair, over the blocks of a wider erased feature; NaN where the
            widths do not fit. This is what the orthogonal loss lowers.
        chance: The same of pairs from different images: what a cosine of 0 amounts to here.
        cka: Linear CKA from unbiased estimates: 0 without linear dependence, 1 for equal features
            up to rotation and scale.
        related_from_erased: R² of a ridge regression on unseen identities, by variance.
        erased_from_related: The same, the other way round.
        bits: What a critic shows of their mutual information, a lower bound (InfoNCE, van den Oord
            et al. 2018), on unseen identities.
        bits_ci: 95 % interval over identities.
        most: The most that this bound can show: log2 of the number of images compared.
    """

    images: str
    cosine: float
    chance: float
    cka: float
    related_from_erased: float
    erased_from_related: float
    bits: float
    bits_ci: tuple[float, float]
    most: float


def probe_independence(
    erased: Tensor, related: Tensor, images: FeatureSet, options: ProbeOptions | None = None
) -> list[Independence]:
    """Measures the dependence of two features, over all images and within each modality.

    Args:
        erased: [N, De].
        related: [N, Dr].
        images: Their N images.
        options: How to probe; None: the defaults.

    Returns:
        A row for all images, and one for each modality that is there.

    Raises:
        MixERValueError: A modality has images of fewer than three identities.
    """
    options = ProbeOptions() if options is None else options
    found = []
    for name, kinds in (("all", (0, 1)), ("visible", (0,)), ("infrared", (1,))):
        here = torch.isin(images.modality, torch.tensor(kinds, device=images.modality.device))
        if not here.any():
            continue
        own = here.nonzero().flatten()
        rows = own[spread_rows(images.ids[own], options.images, options.seed)]
        a, b, ids = erased[rows], related[rows], images.ids[rows]
        folds = identity_folds(ids, options.folds, options.seed)
        bits, most = info_nce(a, b, folds)
        cosine, chance = _cosines(a, b, options.seed)
        found.append(
            Independence(
                images=name,
                cosine=cosine,
                chance=chance,
                cka=linear_cka(a, b),
                related_from_erased=explained_variance(a, b, folds, equal=False).total,
                erased_from_related=explained_variance(b, a, folds, equal=False).total,
                bits=float(bits.mean()),
                bits_ci=cluster_bootstrap(bits.cpu().numpy(), ids.cpu().numpy()),
                most=most,
            )
        )
    return found


def _cosines(a: Tensor, b: Tensor, seed: int) -> tuple[float, float]:
    if a.shape[1] % b.shape[1]:
        return math.nan, math.nan
    order = torch.from_numpy(np.random.default_rng([seed, 5]).permutation(len(b))).to(b.device)
    a, b = a.double(), b.double()
    return float(orthogonal(a, b)), float(orthogonal(a, b[order]))


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear CKA (Kornblith et al., ICML 2019) with HSIC's unbiased estimator.

    The estimator is HSIC_1 of Song et al. (JMLR 2012), as Nguyen et al. (ICLR 2021) use it in CKA.
    It may be a little below 0. Features that do not vary give 0.

    Args:
        a: [n, Da], n at least 4.
        b: [n, Db].
    """
    first, second = (_gram(x) for x in (a, b))
    own = _hsic(first, first) * _hsic(second, second)
    return float(_hsic(first, second) / own.sqrt()) if own > 0 else 0.0


def _gram(x: Tensor) -> Tensor:
    """Scaled inner products without the diagonal: [n, n]."""
    x = Scaling.of(x)(x)
    return (x @ x.T).fill_diagonal_(0)


def _hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    n = len(k)
    rows, columns = k.sum(1), l.sum(1)
    trace = (k * l).sum()
    means = rows.sum() * columns.sum() / ((n - 1) * (n - 2))
    return (trace + means - 2 / (n - 2) * (rows @ columns)) / (n * (n - 3))


def info_nce(a: Tensor, b: Tensor, folds: list[Fold]) -> tuple[Tensor, float]:
    """A lower bound on the mutual information of two features by a critic, on unseen identities.

    The critic of a pair is a scaled cosine of the one feature and what ridge regression makes of
    the other. The validation identities choose direction, penalty and scale; each test image's
    partner is told from those of all of the fold's images.

    Args:
        a: [N, Da].
        b: [N, Db].
        folds: Of identities.

    Returns:
        Bits of each image, float64 [N], whose mean is the bound; and the bound's own maximum.
    """
    bits = torch.empty(len(a), dtype=torch.float64, device=a.device)
    most = []
    for fold in folds:
        asked, middle = torch.cat([fold.valid, fold.test]), len(fold.valid)
        tried = []
        for x, y in ((a, b), (b, a)):
            of_x, of_y = Scaling.of(x[fold.train]), Scaling.of(y[fold.train])
            known = of_x(x[fold.train]), of_y(y[fold.train])
            wanted = unit(of_y(y[asked]))
            for outputs in ridge(*known, ALPHAS[:-1], of_x(x[asked])):
                outputs = unit(outputs)
                valid = outputs[:middle] @ wanted[:middle].T
                test = outputs[middle:] @ wanted[middle:].T
                tried += [(float(_told(valid * by).mean()), by, test) for by in SHARPNESS]
        _, sharpness, cosines = max(tried, key=lambda one: one[0])
        bits[fold.test] = _told(cosines * sharpness)
        most.append(math.log2(len(fold.test)))
    return bits, float(np.mean(most))


def _told(scores: Tensor) -> Tensor:
    """log2 n minus the log loss of telling each row's own column, in bits: [n]."""
    own = torch.arange(len(scores), device=scores.device)
    loss = torch.nn.functional.cross_entropy(scores, own, reduction="none")
    return math.log2(len(scores)) - loss / math.log(2)
