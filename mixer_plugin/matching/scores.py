"""The score of a pair of images (MixER, sec. 3.3): rules and calibrations.

``rules.py`` says how the two cosines of a pair count. ``scores`` gives a whole matrix; the
evaluation ranks row blocks made by the same ``score_blocks``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError, closest
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.matching.normalized import present, unit_source
from mixer_plugin.matching.rules import Rule, check_rules
from mixer_plugin.matching.score_norm import find_cohort, standardised
from mixer_plugin.matching.similarity import score_blocks, tile, znorm_

CALIBRATIONS = ("znorm", "center")


def scores(
    query: FeatureSet,
    gallery: FeatureSet,
    rule: str = "mixer",
    calibration: str | None = None,
    *,
    self_index: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Similarity of every query with every gallery item; higher is more alike.

    Cosines of L2-normalised features, float32 throughout (no TF32, no autocast).

    Args:
        query: Nq images, of one modality or both.
        gallery: Ng images.
        rule: ``mixer`` (sec. 3.3: mean of the erased and the related cosine within a modality,
            erased cosine across), ``mixer-calibrated`` (the same with each cosine standardised by
            both images' cosines with the gallery, ``matching.score_norm``, and features and pairs
            across weighed by what they are worth, ``matching.lift``), ``fused`` and
            ``fused-calibrated`` (the fused cosine for every pair, for a head that both modalities
            share), ``erased``, ``erased-calibrated``, ``related`` (also across modalities),
            ``routed`` (related within a modality, erased across), ``dev-sum``, ``dev-switch``
            (scores of the authors' development code) or ``mixer-shuffled`` (control: ``mixer`` with
            each set's related features shuffled within its modalities, by a fixed seed).
        calibration: None; ``znorm``: a query's scores with the gallery items of one modality are
            shifted and scaled by their own mean and (population) standard deviation; ``center``:
            the gallery's mean of each L2-normalised feature, per modality, is subtracted from all
            features of that modality, the queries' too, which are then normalised again. Neither
            uses a label or another query.
        self_index: int64 [Nq], the gallery row that is the query itself, -1 where it is absent.
            ``znorm`` and the calibrated rules leave this pair out of the query's statistics;
            nothing else uses it. A gallery item is never in its own.

    Returns:
        float32 [Nq, Ng] on the query's device.

    Raises:
        MixERValueError: Unknown rule or calibration, different widths or reductions, related
            features needed but absent, ``center`` with a gallery that lacks a modality of the
            queries, or a ``self_index`` that does not fit.
        MixERTypeError: A ``self_index`` that holds no whole numbers.

    Example:
        >>> from mixer_plugin import FeatureSet
        >>> images = FeatureSet([[1.0, 0], [0, 1]], [[1.0], [1.0]], [5, 6], [1, 1], [0, 0])
        >>> scores(images, images).tolist()  # the mean of the erased and the related cosine
        [[1.0, 0.5], [0.5, 1.0]]
    """
    return scorer(gallery.to(query.erased.device), rule, calibration)(query, self_index)


def scorer(
    gallery: FeatureSet, rule: str, calibration: str | None
) -> Callable[[FeatureSet, Tensor | Sequence[int] | None], Tensor]:
    """``scores`` for several sets of queries; the gallery's part is computed once.

    The function returned takes queries, on the gallery's device, and ``self_index``. Both raise
    what ``scores`` raises.
    """
    chosen = check_rules([rule])
    check_calibration(calibration)
    check_related(gallery, chosen)
    g = unit_source(gallery, chosen)
    order = torch.argsort(gallery.modality, stable=True)
    split = int((gallery.modality == Modality.VISIBLE).sum())
    items = g.rows(order)
    if calibration == "center":
        g = g.centered(items)
        items = g.rows(order)
    cohort = None
    if chosen[rule].standardised:
        cohort = find_cohort(g, order, chosen.values())
        items = standardised(g, cohort, torch.arange(len(order), device=order.device)).rows(order)
    place = torch.argsort(order)
    tiles = tile(split, len(gallery), gallery.erased.device)

    def score(query: FeatureSet, self_index: Tensor | Sequence[int] | None) -> Tensor:
        check_related(query, chosen)
        _check_one_space(query, gallery)
        own = _check_self(self_index, query, gallery)
        q = replace(unit_source(query, chosen), center=g.center)
        if cohort is not None:
            q = standardised(q, cohort, own)
        result = query.erased.new_empty(len(query), len(gallery))
        for modality in present(query.modality):
            rows = (query.modality == modality).nonzero().flatten()
            ((_, block),) = score_blocks(q.rows(rows), items, tiles, modality, chosen)
            if calibration == "znorm":
                own_rows = own[rows]
                own_rows = torch.where(own_rows >= 0, place[own_rows.clamp(min=0)], own_rows)
                znorm_(block, tiles, own_rows)
            result[rows] = block[:, place]
        return result

    return score


def check_calibration(name: str | None) -> None:
    """Raises for an unknown calibration."""
    if name is not None and name not in CALIBRATIONS:
        raise MixERValueError(
            f"Unknown calibration {name!r}.{closest(name, CALIBRATIONS)} None is no calibration."
        )


def check_related(features: FeatureSet, rules: dict[str, Rule]) -> None:
    """Raises if a rule needs related features and there are none."""
    needing = [name for name, rule in rules.items() if rule.needs_related]
    if needing and features.related is None:
        raise MixERValueError(
            f"Rule {needing[0]!r} needs related features, but the FeatureSet has related=None; "
            "extract them with a wrapped model, or use rule 'erased'."
        )


def _check_one_space(query: FeatureSet, gallery: FeatureSet) -> None:
    for name in ("erased", "related"):
        mine, theirs = getattr(query, name), getattr(gallery, name)
        if mine is not None and theirs is not None and mine.shape[1] != theirs.shape[1]:
            raise MixERValueError(
                f"Queries have {name} features of width {mine.shape[1]}, the gallery of width "
                f"{theirs.shape[1]}; both must come from the same model."
            )
    if query.reduction != gallery.reduction:
        raise MixERValueError(
            f"Queries are reduced by {query.reduction or 'none'}, the gallery by "
            f"{gallery.reduction or 'none'}; other reductions have other axes. Reduce both by one "
            "file of a reduction."
        )


def _check_self(
    self_index: Tensor | Sequence[int] | None, query: FeatureSet, gallery: FeatureSet
) -> Tensor:
    device = query.erased.device
    if self_index is None:
        return torch.full((len(query),), -1, device=device)
    own = torch.as_tensor(self_index, device=device)
    if own.dtype.is_floating_point or own.dtype == torch.bool:
        raise MixERTypeError(f"self_index must hold whole numbers, got {own.dtype}.")
    if own.shape != (len(query),):
        raise MixERValueError(
            f"self_index must have one entry per query, shape ({len(query)},), "
            f"got {tuple(own.shape)}."
        )
    if len(own) and not -1 <= int(own.min()) <= int(own.max()) < len(gallery):
        raise MixERValueError(
            f"self_index must lie between -1 (absent) and {len(gallery) - 1}, "
            f"got {int(own.min())} to {int(own.max())}."
        )
    return own.long()
