"""Identity information of a feature, within and across modalities, on unseen identities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.statistics import cluster_bootstrap
from mixer_plugin.features import FeatureSet
from mixer_plugin.losses import unit
from mixer_plugin.probing.folds import Fold, balanced_rows, identity_folds, permuted_within
from mixer_plugin.probing.linear import SHARPNESS, Scaling, ridge
from mixer_plugin.probing.options import ProbeOptions

PAIRS = {"within": "uni", "across": "cross"}
FIGURES = ("mAP", "r1", "aligned_mAP", "aligned_r1", "chance_mAP", "chance_r1")
_ALPHAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_ZEROED = 1e-9


@dataclass(frozen=True, kw_only=True)
class IdentityProbe:
    """How well one feature identifies persons that no probe has seen.

    Galleries are those of one fold, so that levels are higher than those of the whole set.

    Attributes:
        pairs: ``within`` a modality (images of the query's camera removed, where the modality has
            several) or ``across``. Figures are NaN where no image has a match left.
        mAP: By cosine of the feature itself, mean of both modalities' queries.
        r1: The same, share of queries with a match at rank 1.
        aligned_mAP: After one linear map per modality, fitted on other identities.
        aligned_r1: The same.
        chance_mAP: With the features randomly permuted within each modality.
        chance_r1: The same.
        bits: What a decoder shows of MI(Z; Y | M) (within) or of the identity that the modalities
            have in common (across): a lower bound. Y is one of a fold's identities.
        bits_ci: 95 % interval over identities.
        most: log2 of the number of identities to choose from, the most that there could be.
    """

    pairs: str
    mAP: float
    r1: float
    aligned_mAP: float
    aligned_r1: float
    chance_mAP: float
    chance_r1: float
    bits: float
    bits_ci: tuple[float, float]
    most: float


def probe_identity(
    x: Tensor, images: FeatureSet, options: ProbeOptions | None = None
) -> list[IdentityProbe]:
    """Probes a feature for identity.

    * Retrieval by cosine: the feature as it is.
    * The same after an alignment: a ridge classifier of the training identities per modality, whose
      outputs are the new feature. Two related heads have spaces of their own; what they have in
      common across modalities shows only after such a map.
    * Bits: an image is assigned to one of the fold's identities by a softmax over cosines with the
      mean of each one's other images: for ``within`` of the modality's other cameras, or its other
      images where it has one camera; for ``across`` of the other modality. The validation
      identities choose the feature (as it is, or aligned) and the sharpness.

    Args:
        x: Features [N, D].
        images: Their N images.
        options: How to probe; None: the defaults.

    Returns:
        One probe within and one across modalities.

    Raises:
        MixERValueError: Fewer than three identities have images of both modalities.
    """
    options = ProbeOptions() if options is None else options
    rows = balanced_rows(images, options.images, options.seed)
    images = replace(images[rows], erased=x[rows], related=None)
    folds = identity_folds(images.ids, options.folds, options.seed)
    shuffled = images.erased[permuted_within(images.modality, (options.seed, 4))]
    by_fold: dict[str, list[tuple[list[float], Tensor, Tensor, float]]] = {p: [] for p in PAIRS}
    for fold in folds:
        views = [images.erased, _aligned(images, fold)]
        retrieved = [_retrieval(replace(images, erased=v)[fold.test]) for v in (*views, shuffled)]
        for pairs, results in by_fold.items():
            values = [value for each in retrieved for value in each[pairs]]
            results.append((values, *_decoded(views, images, fold, pairs)))
    found = []
    for pairs, results in by_fold.items():
        retrievals, bits, ids, most = zip(*results, strict=True)
        told = torch.cat(bits).cpu().numpy()
        values = [_mean(column) for column in zip(*retrievals, strict=True)]
        found.append(
            IdentityProbe(
                pairs=pairs,
                **dict(zip(FIGURES, values, strict=True)),
                bits=_mean(told.tolist()),
                bits_ci=cluster_bootstrap(told, torch.cat(ids).cpu().numpy()),
                most=float(np.mean(most)),
            )
        )
    return found


def _retrieval(images: FeatureSet) -> dict[str, list[float]]:
    """MAP and rank 1 by kind of pairs."""
    settings = tuple(PAIRS.values())
    rows = evaluate(images, "full", settings=settings, query="both", rules=("erased",)).rows
    return {
        pairs: [
            _mean([getattr(row, name) for row in rows if row.setting == setting])
            for name in ("mAP", "r1")
        ]
        for pairs, setting in PAIRS.items()
    }


def _mean(values: Sequence[float]) -> float:
    """Of those that are known; NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _aligned(images: FeatureSet, fold: Fold) -> Tensor:
    """All images' features after a map per modality, fitted on the training identities.

    The penalty is the one by which the validation identities show most bits, within and across.
    """
    identities, labels = torch.unique(images.ids[fold.train], return_inverse=True)
    targets = torch.nn.functional.one_hot(labels, len(identities)).double()
    size = (len(_ALPHAS), len(images), len(identities))
    made = torch.zeros(size, dtype=torch.float64, device=images.erased.device)
    for m in (0, 1):
        own, all_own = images.modality[fold.train] == m, images.modality == m
        x, y = images.erased[fold.train][own], targets[own]
        scaling = Scaling.of(x)
        given = scaling(images.erased[all_own])
        for number, outputs in enumerate(ridge(scaling(x), y - y.mean(0), _ALPHAS, given)):
            made[number, all_own] = outputs

    def shown(x: Tensor) -> float:
        bits = [_sharpest(x, images, fold, pairs)[0] for pairs in PAIRS]
        return sum(value for value in bits if value > -math.inf)

    return max((each.float() for each in made), key=shown)


def _sharpest(x: Tensor, images: FeatureSet, fold: Fold, pairs: str) -> tuple[float, float]:
    """Most bits that the validation images show, -inf where none has a match, and the sharpness."""
    cosines, own = prototype_cosines(x[fold.valid], images[fold.valid], pairs)
    known = own >= 0
    if not known.any():
        return -math.inf, 1.0
    return max((float(_bits(cosines[known] * by, own[known]).mean()), by) for by in SHARPNESS)


def _decoded(
    views: Sequence[Tensor], images: FeatureSet, fold: Fold, pairs: str
) -> tuple[Tensor, Tensor, float]:
    """Bits shown by each test image that has candidates, its identity, log2 of all candidates."""
    tried = [(*_sharpest(view, images, fold, pairs), view) for view in views]
    _, sharpness, view = max(tried, key=lambda one: one[0])
    test = images[fold.test]
    cosines, own = prototype_cosines(view[fold.test], test, pairs)
    known = own >= 0
    bits = _bits(cosines[known] * sharpness, own[known])
    return bits, test.ids[known], math.log2(cosines.shape[1])


def _bits(logits: Tensor, own: Tensor) -> Tensor:
    """log2 of the number of candidates, minus the log loss in bits: [n]."""
    loss = torch.nn.functional.cross_entropy(logits, own, reduction="none") / math.log(2)
    candidates = (logits > -math.inf).sum(1).double()
    return candidates.log2() - loss


def prototype_cosines(x: Tensor, images: FeatureSet, pairs: str) -> tuple[Tensor, Tensor]:
    """Cosines with each identity's mean over the images that a query may be compared with.

    Args:
        x: Features [n, D].
        images: Their n images.
        pairs: ``within`` or ``across``.

    Returns:
        float64 [n, identities], -inf where an identity has no such image; and each row's own
        column, -1 where that is so for its own identity.
    """
    vectors = unit(x.double())
    identities, own = torch.unique(images.ids, return_inverse=True)
    found = vectors.new_full((len(x), len(identities)), -math.inf)
    for m in (0, 1):
        of_modality = images.modality == m
        shown = of_modality if pairs == "within" else ~of_modality
        cameras = torch.unique(images.cams[of_modality])
        by_camera = pairs == "within" and len(cameras) > 1
        for camera in cameras if by_camera else cameras[:1]:
            rows = (
                (of_modality & (images.cams == camera) if by_camera else of_modality)
                .nonzero()
                .flatten()
            )
            support = shown & (images.cams != camera) if by_camera else shown
            sums = vectors.new_zeros(len(identities), x.shape[1])
            sums.index_add_(0, own[support], vectors[support])
            counts = torch.bincount(own[support], minlength=len(identities))
            cosines = vectors[rows] @ unit(sums).T
            cosines[:, counts == 0] = -math.inf
            if pairs == "within" and not by_camera:  # not with itself
                rest = sums[own[rows]] - vectors[rows]
                mine = (vectors[rows] * unit(rest)).sum(1)
                mine[(counts[own[rows]] < 2) | (rest.norm(dim=1) < _ZEROED)] = -math.inf
                cosines[torch.arange(len(rows), device=rows.device), own[rows]] = mine
            found[rows] = cosines
    there = found.gather(1, own[:, None])[:, 0] > -math.inf
    return found, torch.where(there, own, torch.full_like(own, -1))
