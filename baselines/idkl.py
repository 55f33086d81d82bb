"""IDKL (Ren and Zhang, CVPR 2024), written from the published code's behaviour (1KK077/IDKL).

Attribute and parameter names are the public model's on every path that counts; what the public
model builds and never uses is left out (:data:`BASELINE` ``.dead``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.losses import accuracy, at_least_float32, batch_hard_triplet_loss
from mixer_plugin.baselines.common.trunks import Stages, channel_gate, load_trunk_weights
from mixer_plugin.baselines.common.two_stems import Holder
from mixer_plugin.baselines.idkl_losses import (
    LOSS_WEIGHTS,
    Split,
    class_alignment_loss,
    graph_alignment_loss,
    modality_gap_loss,
    pseudo_modality,
    purified_entropy_loss,
)
from mixer_plugin.baselines.loops import Baseline, Loop, infrared_rows, mined_rows, training_labels
from mixer_plugin.errors import MixERValueError, closest

# Weights of terms; the others' are 1.
FACTORS = {"IN_p": 0.1, "F_p": 0.1}


def gem(stage_map: Tensor, p: float = 3.0, eps: float = 1e-6) -> Tensor:
    """Generalised mean over positions, of values raised to at least ``eps``.

    [B, D, H, W] to [B, D], in the dtype of the map.
    """
    # In half precision eps ** p would be zero, and its root without a gradient.
    values = at_least_float32(stage_map).clamp(min=eps)
    return values.pow(p).mean(dim=(2, 3)).pow(1 / p).to(stage_map.dtype)


class ModalityHead(nn.Module):
    """Two hidden layers of 100 with dropout, then two modalities."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(width, 100), nn.BatchNorm1d(100)
        self.fc2, self.bn2 = nn.Linear(100, 100), nn.BatchNorm1d(100)
        self.fc3 = nn.Linear(100, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, D] to logits [B, 2]."""
        for layer, norm in ((self.fc1, self.bn1), (self.fc2, self.bn2)):
            x = F.dropout(F.relu(norm(layer(x))), training=self.training)
        return self.fc3(x)


def position_mask(channels: int) -> Holder:
    """A gate in (0, 1) per channel and position of [B, C, H, W], from its position's channels."""
    return Holder("channel_attention", channel_gate(channels))


class Branches(nn.Module):
    """Common first stages, then a shared branch for retrieval and a modality-specific one.

    Args:
        trunk: ``resnet50``, ``resnet18``, ``small`` or ``small-deep``.
        last_stride: stride of both ``layer4``.
        weights: local checkpoint with torchvision's names, for all three parts; or None.

    Attributes:
        channels: channels of both branches' maps.
    """

    def __init__(self, trunk: str, last_stride: int, weights: str | Path | None) -> None:
        super().__init__()
        first = Stages(trunk, last=2, stem=True)
        shared, special = (Stages(trunk, first=3, last_stride=last_stride) for _ in range(2))
        if weights is not None:
            for part in (first, shared, special):
                load_trunk_weights(part, weights)
        self.channels = first.channels[3]
        self.shared_module_fr = Holder("model_sh_fr", first)
        self.shared_module_bh = Holder("model_sh_bh", shared)
        self.special = Holder("special_module", special)
        self.IN = nn.InstanceNorm2d(self.channels, affine=True, track_running_stats=True)
        self.mask1, self.mask2 = position_mask(self.channels), position_mask(self.channels)

    def forward(self, x: Tensor, specific: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Images [B, 3, H, W] to the shared feature [B, D] and, if asked for, the specific ones.

        These are, [B, D] each, ``raw`` of the specific branch's map and ``normed`` of its
        instance-normalised copy, ``…_kept`` of these under a mask, and ``feature`` of both copies
        together, each under both masks. Retrieval does not use them; the public model runs the
        branch all the same.
        """
        x = self.shared_module_fr(x)
        shared = gem(self.shared_module_bh(x))
        if not specific:
            return shared, {}
        raw = self.special(x)
        normed = self.IN(raw)
        raw_mask, normed_mask = self.mask2(raw), self.mask1(normed)
        raw_kept, normed_kept = raw_mask * raw, normed_mask * normed
        maps = {"raw": raw, "raw_kept": raw_kept, "normed": normed, "normed_kept": normed_kept}
        maps["feature"] = normed_mask * raw_kept + raw_mask * normed_kept
        return shared, {name: gem(stage_map) for name, stage_map in maps.items()}


class IDKL(nn.Module):
    """A shared branch for retrieval, taught by a modality-specific one in training.

    In training, ``model(images, labels, cam_ids=...)`` returns ``(loss, metrics)``; in evaluation
    the shared feature after the neck, [B, D]. For a batch of exactly one image the public model
    returns class logits in place of it (it drops the batch dimension, and takes the feature for a
    batch of 2048): a mistake that is not repeated here.

    Args:
        dataset: RegDB has its own loss weights and no TGSA.
        last_stride: stride of both ``layer4``; the public ``drop_last_stride: true`` is 1.
        loss_weights: ``sysu`` or ``regdb``, see :data:`LOSS_WEIGHTS`; None: the data set's. The
            public code takes the former for a batch of exactly 120 rows, which is SYSU-MM01's and
            LLCM's, and the latter for any other batch, such as RegDB's 60. Here another batch size
            does not change the losses silently.
        distalign: with TGSA, which needs an even number of rows per modality; None: the data set's.
        margin: of both triplet losses.

    Attributes:
        mutual_learning: False; the public loop reads it at each epoch, and the public model, which
            lacks it, ends there.

    Raises:
        MixERValueError: for values out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        trunk: str = "resnet50",
        dataset: str = "sysu",
        weights: str | Path | None = None,
        last_stride: int = 1,
        loss_weights: str | None = None,
        distalign: bool | None = None,
        margin: float = 1.3,
    ) -> None:
        super().__init__()
        if loss_weights is None:
            loss_weights = "regdb" if dataset == "regdb" else "sysu"
        if loss_weights not in LOSS_WEIGHTS:
            raise MixERValueError(
                f"Unknown loss_weights {loss_weights!r}.{closest(loss_weights, LOSS_WEIGHTS)}"
            )
        self.mutual_learning = False
        self.loss_weights, self.margin = LOSS_WEIGHTS[loss_weights], margin
        self.distalign = dataset != "regdb" if distalign is None else distalign

        self.backbone = Branches(trunk, last_stride, weights)
        width = self.backbone.channels
        self.bn_neck, self.bn_neck_sp = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.bn_neck.bias.requires_grad_(False)
        self.bn_neck_sp.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, num_classes, bias=False)
        self.classifier_sp = nn.Linear(width, num_classes, bias=False)
        self.D_special = ModalityHead(width)
        self.C_sp_f = nn.Linear(width, num_classes, bias=False)
        self.D_shared_pseu = ModalityHead(width)

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, *, cam_ids: Any = None, **_: Any
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics in training, else [B, D].

        Metrics: ``tri``, ``soft_dt`` (TGSA), ``IN_p`` and ``F_p`` (IP), ``unad``, ``id_pl``,
        ``pse``, ``bg_kl`` and ``sm_kl`` (CSA by row and by identity), ``acc``, ``ce``.

        Args:
            inputs: images [B, 3, H, W].
            labels: [B] int64, in training; identity by identity.
            cam_ids: [B] camera numbers, in training; 3 and 6 are infrared.
            **_: what public loops pass besides (``epoch``).

        Raises:
            MixERValueError: in training without ``labels`` or ``cam_ids``, if the rows are not
                grouped by identity with as many visible as infrared ones each, or, with
                ``distalign``, for an odd number of rows per modality.
        """
        if not self.training:
            return self.bn_neck(self.backbone(inputs, specific=False)[0])
        labels = training_labels(labels, "IDKL")
        infrared = infrared_rows(cam_ids, inputs, "IDKL")
        # All terms: graphs, centres and the pairing of logits run over the whole batch.
        labels, infrared = mined_rows(self, labels, infrared)
        rows = self._rows_per_identity(labels, infrared)
        found = self._outputs(inputs)
        # Half-precision distances would cancel to noise.
        with torch.autocast(inputs.device.type, enabled=False):
            values = mined_rows(self, *(value.float() for value in found.values()))
            found = dict(zip(found, values, strict=True))
            terms = self._terms_of_rows(found, labels, infrared)
            visible, thermal = (mask.nonzero()[:, 0] for mask in (~infrared, infrared))
            split = {k: Split(x[visible], x[thermal], rows) for k, x in found.items()}
            terms |= self._terms_of_modalities(split)
            loss = torch.stack([FACTORS.get(k, 1.0) * term for k, term in terms.items()]).sum()
        metrics = {**terms, "acc": accuracy(found["logits"], labels)}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """Features before the necks, and the logits of every classifier, [B, ·]."""
        shared, specific = self.backbone(inputs, specific=True)
        neck, neck_sp = self.bn_neck(shared), self.bn_neck_sp(specific["feature"])
        return {
            "shared": shared,
            "specific": specific["feature"],
            "normed": specific["normed"],
            "normed_kept": specific["normed_kept"],
            "logits_raw": self.C_sp_f(specific["raw"]),
            "logits_kept": self.C_sp_f(specific["raw_kept"]),
            "logits_sp": self.classifier_sp(neck_sp),
            "modality": self.D_special(neck_sp),
            "pseudo": self.D_shared_pseu(neck),
            "logits": self.classifier(neck),
        }

    def _terms_of_rows(
        self, found: dict[str, Tensor], labels: Tensor, infrared: Tensor
    ) -> dict[str, Tensor]:
        triplets = [
            batch_hard_triplet_loss(found[name], labels, self.margin)
            for name in ("shared", "specific")
        ]
        return {
            "tri": triplets[0] + triplets[1],
            "F_p": purified_entropy_loss(found["logits_raw"], found["logits_kept"]),
            "unad": F.cross_entropy(found["modality"], infrared.long()),
            "id_pl": F.cross_entropy(found["logits_sp"], labels),
            "pse": F.cross_entropy(found["pseudo"], pseudo_modality(infrared)),
            "ce": F.cross_entropy(found["logits"], labels),
        }

    def _terms_of_modalities(self, found: dict[str, Split]) -> dict[str, Tensor]:
        logits, logits_sp = found["logits"], found["logits_sp"]
        weight = self.loss_weights.logits_specific
        terms = {
            "IN_p": modality_gap_loss(found["normed"], found["normed_kept"]),
            "bg_kl": class_alignment_loss(logits, logits_sp, weight),
            "sm_kl": class_alignment_loss(logits.side_by_side(), logits_sp.side_by_side(), weight),
        }
        if self.distalign:
            shared, specific = found["shared"], found["specific"]
            terms["soft_dt"] = graph_alignment_loss(shared, specific, self.loss_weights)
        return terms

    def _rows_per_identity(self, labels: Tensor, infrared: Tensor) -> int:
        """Rows of one identity in one modality; raises unless they are the same everywhere."""
        both = int((labels == labels[:1]).sum())
        fits = both > 0 and len(labels) % both == 0
        if fits:
            groups = labels.view(-1, both)
            identities = groups[:, 0]
            balanced = 2 * infrared.view(-1, both).sum(1) == both
            fits = bool((groups == identities[:, None]).all() & balanced.all())
            fits = fits and len(torch.unique(identities)) == len(identities)
        if not fits:
            raise MixERValueError(
                f"IDKL got {int((~infrared).sum())} visible and {int(infrared.sum())} infrared "
                f"rows, of identities {labels[:12].tolist()} …; expected them identity by "
                "identity, the same number for each, half of them visible. Use "
                "IdentitySampler(order='grouped')."
            )
        if self.distalign and len(labels) % 4:
            raise MixERValueError(
                f"IDKL got {len(labels) // 2} rows per modality; its graph alignment takes half of "
                "each and needs an even number. Draw an even number of identities or of images "
                "per identity and modality, or build it with distalign=False."
            )
        return both // 2


_UNUSED = "of the three whole ResNets each runs a part alone"
BASELINE = Baseline(
    network=IDKL,
    loop=Loop,
    dead={
        r"backbone\.shared_module_fr\.model_sh_fr\.layer[34]\..*": f"later stages: {_UNUSED}",
        r"backbone\.(shared_module_bh\.model_sh_bh|special\.special_module)\."
        r"(conv1|bn1|layer[12])\..*": f"first stages: {_UNUSED}",
        r"backbone\.special_att\..*": "an attention that no forward uses",
    },
)
