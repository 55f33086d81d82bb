"""MPANet (Wu et al., CVPR 2021), written to be equal to the public code DoubtedSteam/MPANet.

Attribute and parameter names are the public model's, all of whose weights count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.losses import (
    accuracy,
    center_separation_loss,
    mean_cross_entropy,
)
from mixer_plugin.baselines.common.momentum_classifiers import modality_logits, moving_copy
from mixer_plugin.baselines.common.part_pooling import part_means
from mixer_plugin.baselines.common.trunks import Trunk, create_trunk
from mixer_plugin.baselines.loops import (
    Baseline,
    Loop,
    infrared_rows,
    mined_rows,
    training_labels,
)
from mixer_plugin.errors import MixERValueError


def part_overlap(masks: Tensor) -> Tensor:
    """Inner product of two masks of an image, mean over pairs of parts and over images (``p-reg``).

    Args:
        masks: [B, P, H, W] in (0, 1).

    Returns:
        float32 scalar; zero for a single part.
    """
    masks = masks.float()
    # (sum_p m_p)² - sum_p m_p² holds every pair twice.
    twice = masks.sum(1).square() - masks.square().sum(1)
    pairs = masks.shape[1] * (masks.shape[1] - 1) / 2
    return twice.sum() / 2 / (len(masks) * max(pairs, 1))


def classifier_agreement(live: Tensor, taught: Tensor) -> Tensor:
    """KL divergence of the live classifiers' probabilities from the moving copies' (``KL``).

    ``mean_rows sum_c p_c (log p_c - log q_c)`` with p live and q taught. The gradient flows through
    p, the distribution that it weighs with, as in the public code.

    Args:
        live: logits [B, C], with gradient.
        taught: logits [B, C] of the other modality's moving copies, without.
    """
    return F.kl_div(taught.log_softmax(1), live.softmax(1), reduction="batchmean")


class MPANet(nn.Module):
    """Trunk with modality attention, part and global pooling, one neck, three classifiers.

    In training, ``model(images, labels, cam_ids=...)`` returns ``(loss, metrics)``; in evaluation
    the features after the neck, [B, (P + 1) * D], parts first. Rows of cameras 3 and 6 are
    infrared.

    Args:
        backbone: the trunk.
        num_classes: number of identities C.
        parts: number of parts P; 0 leaves the global mean alone and ``spatial_attention`` out.
        margin: distance between two identities' centres from which on ``cc`` costs nothing.
        weight_sep: weight of :func:`part_overlap`.
        weight_sid: weight of each modality's cross-entropy; added twice, as in the public code.
        weight_kl: weight of :func:`classifier_agreement`.
        update_rate: share of the live per-modality classifiers that enters their moving copies at
            each training step.

    Attributes:
        update_rate: set by the public loop at each epoch, to
            ``min(100 / (epoch + 1), 1) * update_rate_``, where ``mutual_learning`` is true.
        modality_attention: level of the trunk's attention.
    """

    def __init__(
        self,
        backbone: Trunk,
        num_classes: int,
        *,
        parts: int = 6,
        margin: float = 0.7,
        weight_sep: float = 0.5,
        weight_sid: float = 0.5,
        weight_kl: float = 2.5,
        update_rate: float = 0.2,
    ) -> None:
        super().__init__()
        width = backbone.channels * (parts + 1)
        self.parts = parts
        self.modality_attention = backbone.modality_attention
        self.mutual_learning = True
        self.update_rate = self.update_rate_ = update_rate
        self.margin = margin
        self.weight_sep, self.weight_sid, self.weight_kl = weight_sep, weight_sid, weight_kl

        self.backbone = backbone
        if parts > 0:
            self.spatial_attention = nn.Conv2d(backbone.channels, parts, 1)
            nn.init.zeros_(self.spatial_attention.bias)  # type: ignore[arg-type]
            self.activation = nn.Sigmoid()
        self.visible_classifier = nn.Linear(width, num_classes, bias=False)
        self.infrared_classifier = nn.Linear(width, num_classes, bias=False)
        self.visible_classifier_ = moving_copy(self.visible_classifier)
        self.infrared_classifier_ = moving_copy(self.infrared_classifier)
        self.bn_neck = nn.BatchNorm1d(width)
        self.bn_neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, num_classes, bias=False)

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, *, cam_ids: Any = None, **_: Any
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics in training, else [B, (P + 1) * D].

        Metrics: ``p-reg`` (with parts), ``cc``, ``acc``, ``ce``, ``ce-v``, ``ce-i``, ``KL``.

        Args:
            inputs: images [B, 3, H, W].
            labels: [B] int64, in training.
            cam_ids: [B] camera numbers, in training.
            **_: what public loops pass besides (``epoch``).

        Raises:
            MixERValueError: in training without ``labels`` or ``cam_ids``, or with another number
                of cameras than of images.
        """
        stage_map = self.backbone(inputs)
        features, masks = stage_map.mean(dim=(2, 3)), None
        if self.parts > 0:
            masks = self.activation(self.spatial_attention(stage_map))
            features = torch.cat([part_means(stage_map, masks), features], dim=1)
        if not self.training:
            return self.bn_neck(features)
        labels = training_labels(labels, "MPANet")
        infrared = infrared_rows(cam_ids, inputs, "MPANet")
        terms = {} if masks is None else {"p-reg": part_overlap(masks)}
        rows, identities = mined_rows(self, features, labels)
        terms["cc"] = center_separation_loss(rows, identities, 0.0, self.margin)
        metrics, loss = self._identity_losses(self.bn_neck(features), labels, infrared)
        loss = loss + terms["cc"] + self.weight_sep * terms.get("p-reg", 0.0)
        return loss, {name: value.detach() for name, value in {**terms, **metrics}.items()}

    def _identity_losses(
        self, features: Tensor, labels: Tensor, infrared: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What the classifiers say of features after the neck: metrics, and their weighted sum."""
        logits = self.classifier(features).float()
        logits_v, logits_i, taught = modality_logits(self, features, infrared)
        metrics = {
            "acc": accuracy(logits, labels),
            "ce": F.cross_entropy(logits, labels),
            "ce-v": mean_cross_entropy(logits_v, labels[~infrared]),
            "ce-i": mean_cross_entropy(logits_i, labels[infrared]),
            "KL": classifier_agreement(torch.cat([logits_v, logits_i]), taught),
        }
        own = 2 * self.weight_sid * (metrics["ce-v"] + metrics["ce-i"])
        return metrics, metrics["ce"] + own + self.weight_kl * metrics["KL"]


def mpanet(
    num_classes: int,
    *,
    trunk: str = "resnet50",
    dataset: str = "sysu",
    weights: str | Path | None = None,
    last_stride: int = 1,
    modality_attention: int = 2,
    parts: int = 6,
    margin: float = 0.7,
    weight_sep: float = 0.5,
    weight_sid: float = 0.5,
    weight_kl: float = 2.5,
    update_rate: float = 0.2,
) -> MPANet:
    """Builds MPANet with the public yml files' settings; they are the same for every data set.

    Args:
        num_classes: number of identities.
        trunk: ``resnet50``, ``resnet18``, ``small`` or ``small-deep``.
        dataset: without effect on the network.
        weights: local trunk checkpoint or None.
        last_stride: stride of ``layer4``; the public ``drop_last_stride: true`` is 1.
        modality_attention: 0, 1 or 2, see :class:`mixer_plugin.baselines.common.trunks.Trunk`.
        parts: see :class:`MPANet`, as the rest; 0 is the public ``pattern_attention: false``.
        margin: push margin of the centres.
        weight_sep: part overlap.
        weight_sid: per-modality classifiers.
        weight_kl: their agreement.
        update_rate: of the moving copies.

    Raises:
        MixERValueError: for values out of range.
    """
    if parts < 0:
        raise MixERValueError(f"parts is {parts}; expected 0 (global mean alone) or more.")
    if not 0 <= update_rate <= 1:
        raise MixERValueError(f"update_rate is {update_rate}; expected a share in [0, 1].")
    backbone = create_trunk(
        trunk, last_stride=last_stride, modality_attention=modality_attention, weights=weights
    )
    return MPANet(
        backbone,
        num_classes,
        parts=parts,
        margin=margin,
        weight_sep=weight_sep,
        weight_sid=weight_sid,
        weight_kl=weight_kl,
        update_rate=update_rate,
    )


BASELINE = Baseline(build=mpanet, loop=Loop, network=MPANet)
