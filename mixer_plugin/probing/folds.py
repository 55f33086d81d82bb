"""Splits of images for fitting and testing a probe, never of the same identities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet


@dataclass(frozen=True)
class Fold:
    """Row numbers, int64; no identity is in two of the three.

    Attributes:
        train: Weights are fitted on these.
        valid: These choose penalties and lengths.
        test: The reported figures are of these.
    """

    train: Tensor
    valid: Tensor
    test: Tensor

    @property
    def seen(self) -> Tensor:
        """Training and validation rows, for the last fit."""
        return torch.cat([self.train, self.valid])


def identity_folds(ids: Tensor, count: int, seed: int) -> list[Fold]:
    """Cuts identities into parts; each is tested once, and the next one validates.

    Args:
        ids: int64 [N].
        count: Number of parts. It is lowered, to three at least, where a part would have fewer than
            two identities.
        seed: Of the random parts.

    Returns:
        One fold per part, on the device of ``ids``.

    Raises:
        MixERValueError: There are fewer than three identities.
    """
    identities, numbers = np.unique(ids.cpu().numpy(), return_inverse=True)
    total = len(identities)
    if total < 3:
        raise MixERValueError(
            f"Probes are fitted, tuned and tested on different identities, got {total}; give at "
            "least 3, better 50."
        )
    count = max(3, min(count, total // 2))
    part = np.empty(total, dtype=np.int64)
    part[np.random.default_rng([seed, 0]).permutation(total)] = np.arange(total) % count

    def rows(*parts: int) -> Tensor:
        return torch.from_numpy(np.flatnonzero(np.isin(part[numbers], parts))).to(ids.device)

    return [
        Fold(
            train=rows(*(p for p in range(count) if p not in (k, (k + 1) % count))),
            valid=rows((k + 1) % count),
            test=rows(k),
        )
        for k in range(count)
    ]


def balanced_rows(images: FeatureSet, limit: int, seed: int) -> Tensor:
    """Rows with equally many visible and infrared images of each identity, over its cameras.

    Of the modality that has more images of an identity, some are left out; those kept are taken
    from its cameras in turns. Identities without images of both modalities are left out.

    Args:
        images: N images.
        limit: Number of rows at most, but two of each identity are kept.
        seed: Of the random choice.

    Returns:
        int64 [M], ascending, on the images' device.

    Raises:
        MixERValueError: No identity has images of both modalities.
    """
    ids, cams, modality = (v.cpu().numpy() for v in (images.ids, images.cams, images.modality))
    both = np.intersect1d(ids[modality == 0], ids[modality == 1])
    both = both[both >= 0]  # below 0, a person is unknown
    if not len(both):
        raise MixERValueError(
            "No identity has images of both modalities, so that nothing tells a modality from an "
            "identity; give features of both."
        )
    most = max(1, limit // (2 * len(both)))
    rng = np.random.default_rng([seed, 1])
    chosen = []
    for identity in both:
        kinds = [np.flatnonzero((ids == identity) & (modality == m)) for m in (0, 1)]
        take = min(most, *map(len, kinds))
        for rows in kinds:
            rows = rng.permutation(rows)
            chosen.append(rows[np.argsort(_rank_within(cams[rows]), kind="stable")][:take])
    return torch.from_numpy(np.sort(np.concatenate(chosen))).to(images.ids.device)


def spread_rows(ids: Tensor, limit: int, seed: int) -> Tensor:
    """At most ``limit`` rows, int64, as evenly over the identities as they have images."""
    if len(ids) <= limit:
        return torch.arange(len(ids), device=ids.device)
    order = np.random.default_rng([seed, 2]).permutation(len(ids))
    turn = _rank_within(ids.cpu().numpy()[order])
    kept = order[np.argsort(turn, kind="stable")[:limit]]
    return torch.from_numpy(np.sort(kept)).to(ids.device)


def permuted_within(groups: Tensor, seed: Sequence[int]) -> Tensor:
    """Row numbers int64 [N], randomly permuted within each group of equal entries of [N]."""
    rng = np.random.default_rng(seed)
    kinds = groups.cpu().numpy()
    order = np.arange(len(kinds))
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        order[own] = rng.permutation(own)
    return torch.from_numpy(order).to(groups.device)


def _rank_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many earlier entries are of the same group: [n]."""
    order = np.argsort(groups, kind="stable")
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups)) - np.searchsorted(groups[order], groups[order])
    return rank
