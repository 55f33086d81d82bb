"""The features of a frozen model, after its necks and before them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import Adapter
from mixer_plugin.errors import MixERValueError
from mixer_plugin.extraction import embed_batch, readable
from mixer_plugin.features import FeatureSet


@torch.no_grad()
def extract_views(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    adapter: str | Adapter = "auto",
    progress: Callable[[int], None] | None = None,
) -> tuple[FeatureSet, dict[str, Tensor]]:
    """Features after the necks, as ``extract_features`` gives them, and before.

    Args:
        model: wrapped, or any model that the adapter fits; it stays as it is, bit by bit.
        batches: Batches as ``extract_features`` takes them.
        adapter: Adapter of a bare model; a wrapped one has its own.
        progress: Called with the number of images done, after each batch.

    Returns:
        The features of the N images; and those before the neck, [N, D] by name (``erased``,
        ``related``), without a feature that no neck changes.

    Raises:
        MixERError: There is no batch, a batch is incomplete, or no adapter fits.
    """
    sets: list[FeatureSet] = []
    before: dict[str, list[Tensor]] = {}
    with readable(model, adapter) as bare:
        device = next(bare.parameters()).device
        for batch in batches:
            features, found = embed_batch(bare, batch, device)
            sets.append(features)
            for name, value in found.items():
                before.setdefault(name, []).append(value)
            if progress is not None:
                progress(sum(map(len, sets)))
    if not sets:
        raise MixERValueError("There is no batch of images. Check the data set behind it.")
    features = FeatureSet.concatenate(sets)
    joined = {name: torch.cat(parts) for name, parts in before.items()}
    return features, {
        name: value
        for name, value in joined.items()
        if not torch.equal(value, getattr(features, name))
    }
