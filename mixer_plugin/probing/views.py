"""The features of a frozen model, after its necks and before them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import Adapter
from mixer_plugin.attach import MixedModule, bare_model, mixer_of, unwrap_mixer, wrap_with_mixer
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERValueError
from mixer_plugin.extraction import unpack
from mixer_plugin.features import FeatureSet
from mixer_plugin.forward.record import Record

NAMES = ("erased", "related")


@contextlib.contextmanager
def readable(model: nn.Module, adapter: str | Adapter = "auto") -> Iterator[nn.Module]:
    """Within the block, what a forward of the model leaves behind can be read; it is in eval mode.

    A bare model is wrapped without heads and unwrapped again. Afterwards every module is in the
    mode that it was in.

    Raises:
        MixERError: No adapter fits.
    """
    bare = bare_model(model)
    modes = [(module, module.training) for module in bare.modules()]
    wrapped_here = not isinstance(bare, MixedModule)
    if wrapped_here:
        control = MixERConfig(control="erased-triplet")  # the one that has no heads
        wrap_with_mixer(bare, "e2e", num_classes=1, adapter=adapter, config=control)
    try:
        bare.eval()
        yield bare
    finally:
        mixer_of(bare).record = None
        if wrapped_here:
            unwrap_mixer(bare)
        for module, training in modes:
            module.training = training


def look(model: nn.Module, images: Tensor, modality: Tensor, views: list[Record]) -> Tensor:
    """One pass over a batch as the base's own evaluation makes it.

    Args:
        model: wrapped, in eval mode.
        images: float32 [B, 3, H, W], rows that the base takes in one forward.
        modality: int64 [B].
        views: Receives the record of each forward (mirrored images are another one), with its
            related features if the model has heads.

    Returns:
        The erased retrieval embedding.
    """
    mixer = mixer_of(model)
    with mixer.matching(views):
        embedded = mixer.adapter.embed(model, images, modality)
    if views[-1].modality is None:
        mixer.complete(model, modality)
    return embedded


def modality_groups(model: nn.Module, modality: Tensor) -> list[Tensor]:
    """Row numbers of the forwards that a batch takes: one, or one per modality."""
    rows = torch.arange(len(modality), device=modality.device)
    if not mixer_of(model).adapter.one_modality_in_eval:
        return [rows]
    return [own for m in (0, 1) if len(own := rows[modality == m])]


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
        batches: As ``extract_features`` takes them.
        adapter: Of a bare model.
        progress: Called with the number of images done, after each batch.

    Returns:
        The features; and those before the neck by name (``erased``, ``related``), without those
        that no neck changes.

    Raises:
        MixERError: There is no batch, a batch is incomplete, or no adapter fits.
    """
    sets: list[FeatureSet] = []
    before: dict[str, list[Tensor]] = {}
    with readable(model, adapter) as bare:
        device = next(bare.parameters()).device
        done = 0
        for batch in batches:
            images, ids, cams, modality, paths = unpack(batch)
            found = _views(bare, images.to(device), modality.to(device))
            for name in NAMES:
                if name in found:
                    before.setdefault(name, []).append(found.pop(f"{name} before"))
            sets.append(
                FeatureSet(found["erased"], found.get("related"), ids, cams, modality, paths)
            )
            done += len(ids)
            if progress is not None:
                progress(done)
    if not sets:
        raise MixERValueError("There is no batch of images. Check the data set behind it.")
    features = FeatureSet.concatenate(sets)
    joined = {name: torch.cat(parts) for name, parts in before.items()}
    return features, {
        name: value
        for name, value in joined.items()
        if not torch.equal(value, cast(Tensor, getattr(features, name)))
    }


def _views(model: nn.Module, images: Tensor, modality: Tensor) -> dict[str, Tensor]:
    """Features of a batch by name, on the CPU, in its order; means over mirrored images."""
    groups = modality_groups(model, modality)
    parts: dict[str, list[Tensor]] = {}
    for rows in groups:
        records: list[Record] = []
        embedded = look(model, images[rows], modality[rows], records)
        found: dict[str, list[Tensor | None]] = {
            "erased": [embedded],
            "erased before": [record.erased_before for record in records],
            "related": [record.related_after for record in records],
            "related before": [record.related_before for record in records],
        }
        for name, values in found.items():
            given = [value for value in values if value is not None]
            if given:  # an adapter may have run more rows than it was given
                mean = torch.stack(given).float().mean(0)[: len(rows)]
                parts.setdefault(name, []).append(mean.cpu())
    back = torch.cat(groups).argsort().cpu()
    return {name: torch.cat(values)[back] for name, values in parts.items()}
