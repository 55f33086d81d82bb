"""The terms of the MixER loss (eq. 16) for one forward."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mixer_plugin import losses
from mixer_plugin.adapters.base import Adapter
from mixer_plugin.config import MixERConfig
from mixer_plugin.forward.record import Record
from mixer_plugin.heads import counter_dropout, reverse_gradient


def loss_terms(mixer: Any, record: Record, labels: Tensor) -> dict[str, Tensor]:
    """Each term of eq. 16 for a record with its related features, float32 scalars.

    Unweighted, but for the related feature's part of ``center_cluster``, which is L_ymr's.

    Args:
        mixer: the :class:`MixER` whose classifiers are used.
        record: of a forward, or of cached maps.
        labels: [B] int64.
    """
    config, modality = mixer.config, record.modality
    assert modality is not None
    routes, step = record.routes, record.step
    assert routes is not None
    assert step is not None
    before, after = record.erased_before.float(), record.erased_after.float()
    fused = None if record.related_after is None else record.related_after.float()
    terms: dict[str, Tensor] = {}
    clusters = []
    if routes.erased:
        if mixer.erased_identity is not None:
            terms["identity"] = losses.identity(mixer.erased_identity(after), labels)
        if adds(config, mixer.adapter, "center_cluster"):
            clusters.append(_center_cluster(config, before, labels))
    if record.related_before is not None and mixer.identity is not None and fused is not None:
        related = record.related_before.float()
        doubled = losses.modality_identity_labels(labels, modality)
        targets = doubled if config.doubles_labels else labels
        terms["modality_identity"] = losses.identity(mixer.identity(fused), targets)
        cluster = _related_cluster(config, related, targets, modality)
        clusters.append(config.lambda_related * cluster)  # of L_ymr, unlike the erased one
        side = before if routes.orthogonal_both else before.detach()
        terms["orthogonal"] = losses.orthogonal(side, related, config.orthogonal)
    if clusters:
        terms["center_cluster"] = torch.stack(clusters).sum()
    if mixer.confusion is not None:
        dropped = counter_dropout(before, config.confusion_dropout, step)
        logits = mixer.confusion(reverse_gradient(dropped, reversal(config, step)))
        terms["confusion"] = losses.confusion(logits, modality)
    triplet = partial(
        losses.fusion,
        labels=labels,
        modality=modality,
        margin=config.fusion_margin,
        center=config.fusion_center,
    )
    parts = [triplet(after, None)] if routes.fusion_base else []
    if fused is not None:
        parts.append(triplet(after if routes.fusion_joint else after.detach(), fused))
    terms["fusion"] = torch.stack(parts).sum()
    return terms


def _center_cluster(config: MixERConfig, features: Tensor, labels: Tensor) -> Tensor:
    return losses.center_cluster(
        features, labels, pull=config.center_cluster_pull, push=config.center_cluster_push
    )


def _related_cluster(
    config: MixERConfig, related: Tensor, targets: Tensor, modality: Tensor
) -> Tensor:
    if not config.clusters_apart:
        return _center_cluster(config, related, targets)
    return torch.stack(
        [_center_cluster(config, related[modality == m], targets[modality == m]) for m in (0, 1)]
    ).sum()


def reversal(config: MixERConfig, step: Tensor) -> Tensor:
    """Scale of the reversed gradient at a step, risen linearly over the warm-up."""
    share = step / max(config.reversal_warmup, 1)
    full = torch.ones_like(share)
    return config.reversal * (share.clamp(max=1) if config.reversal_warmup else full)


def adds(config: MixERConfig, adapter: Adapter, term: str) -> bool:
    """Whether a term of L_yme, eq. 10, is added: ``identity`` or ``center_cluster``."""
    if config.erased_identity == "skip" or config.control == "erased-triplet":
        return False
    return config.erased_identity == "add" or term not in adapter.base_losses
