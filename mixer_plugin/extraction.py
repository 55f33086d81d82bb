"""One batch of feature extraction: what a loader gives, and what a wrapped model makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.errors import MixERValueError
from mixer_plugin.module import MixER
from mixer_plugin.record import Record


def embed_batch(
    model: nn.Module, mixer: MixER, images: Tensor, modality: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Erased and related features of a batch, on the CPU, in its order."""
    groups = [torch.arange(len(images), device=images.device)]
    if mixer.adapter.one_modality_in_eval:
        groups = [rows for m in (0, 1) if len(rows := (modality == m).nonzero().flatten())]
    back = torch.cat(groups).argsort().cpu()
    erased, related = [], []
    for rows in groups:
        views: list[Record] = []
        with mixer.matching(views):
            features = mixer.adapter.embed(model, images[rows], modality[rows])
        # Here rather than at the forward where only the loader knows the modality.
        mixer.complete(model, modality[rows] if views[-1].modality is None else None)
        erased.append(features.float().cpu())
        seen = [view.related_after for view in views if view.related_after is not None]
        if seen:  # a base that also looks at mirrored images averages over what it saw
            # An adapter may have run more rows than it was given.
            related.append(torch.stack(seen).float().mean(0)[: len(rows)].cpu())
    return torch.cat(erased)[back], torch.cat(related)[back] if related else None


_FIELDS = ("images", "ids", "cams", "modality", "paths")


def unpack(batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...] | None]:
    """Images, ids, cams, modality and paths of a loader's batch."""
    if isinstance(batch, Mapping):
        found = {name: batch[name] for name in _FIELDS if name in batch}
    elif isinstance(batch, (list, tuple)):
        names = list(_FIELDS)
        if len(batch) > 3 and not isinstance(batch[3], Tensor):
            names.remove("modality")
        found = dict(zip(names, batch, strict=False))
    else:
        found = {}
    missing = [name for name in _FIELDS[:3] if name not in found]
    if missing:
        raise MixERValueError(
            f"A batch of the loader ({type(batch).__name__}) has no {', '.join(missing)}. Expected "
            "a mapping with images, ids, cams and optionally modality and paths, or a sequence of "
            "these in this order."
        )
    ids, cams = torch.as_tensor(found["ids"]), torch.as_tensor(found["cams"])
    modality = found.get("modality")
    if modality is None:
        modality = (cams == 3) | (cams == 6)
    paths = found.get("paths")
    return (
        found["images"],
        ids,
        cams,
        torch.as_tensor(modality).long(),
        None if paths is None else tuple(paths),
    )
