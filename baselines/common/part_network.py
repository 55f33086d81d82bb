"""What MPANet and SAAI share: part pooling, and classifiers that teach across modalities."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.losses import (
    accuracy,
    center_separation_loss,
    mean_cross_entropy,
)
from mixer_plugin.baselines.common.momentum_classifiers import modality_logits, momentum_copy
from mixer_plugin.baselines.common.trunks import Trunk
from mixer_plugin.baselines.common.vit import VisionTransformer
from mixer_plugin.baselines.loops import infrared_rows, mined_rows, training_labels
from mixer_plugin.errors import MixERValueError


class PartNetwork(nn.Module):
    """A trunk, part and global pooling, a neck, a shared classifier and one per modality.

    In training, ``model(images, labels, cam_ids=...)`` returns ``(loss, metrics)``; in evaluation
    the features after the neck, [B, (P + 1) * D], parts first. Rows of cameras 3 and 6 are
    infrared.

    A subclass adds its part pooling, ``bn_neck`` and the classifiers in the public model's order,
    and defines :meth:`pool_parts` and :meth:`losses`.

    Args:
        backbone: the trunk.
        parts: number of parts P; 0 leaves the global mean alone.
        update_rate: share of the live per-modality classifiers that enters their momentum copies
            at each training step.
        margins: pull and push margin of :func:`center_separation_loss`.

    Attributes:
        width: columns of a feature, (P + 1) * D.
        update_rate: set by the public loop at each epoch, to
            ``min(100 / (epoch + 1), 1) * update_rate_``, where ``mutual_learning`` is true.
        modality_attention: level of the trunk's attention.

    Raises:
        MixERValueError: for values out of range.
    """

    public_name: ClassVar[str]
    dual_neck: ClassVar[bool] = False  # the neck needs each row's modality
    bn_neck: nn.Module
    classifier: nn.Linear

    def __init__(
        self,
        backbone: Trunk | VisionTransformer,
        parts: int,
        update_rate: float,
        margins: tuple[float, float],
    ) -> None:
        super().__init__()
        if parts < 0:
            raise MixERValueError(f"parts is {parts}; expected 0 (global mean alone) or more.")
        if not 0 <= update_rate <= 1:
            raise MixERValueError(f"update_rate is {update_rate}; expected a share in [0, 1].")
        self.backbone = backbone
        self.parts, self.width = parts, backbone.channels * (parts + 1)
        self.modality_attention = backbone.modality_attention
        self.mutual_learning = True
        self.update_rate = self.update_rate_ = update_rate
        self.margins = margins

    def add_modality_classifiers(self, num_classes: int) -> None:
        """Adds a classifier per modality and their momentum copies."""
        self.visible_classifier = nn.Linear(self.width, num_classes, bias=False)
        self.infrared_classifier = nn.Linear(self.width, num_classes, bias=False)
        self.visible_classifier_ = momentum_copy(self.visible_classifier)
        self.infrared_classifier_ = momentum_copy(self.infrared_classifier)

    def pool_parts(self, stage_map: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, D, H, W] to part means [B, P * D] and masks."""
        raise NotImplementedError

    def losses(
        self, terms: dict[str, Tensor], masks: Tensor | None, live: Tensor, taught: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss and the metrics of a training batch.

        Args:
            terms: center separation before the neck (``cc``), accuracy (``acc``) and cross-entropy
                (``ce``) of the shared classifier, cross-entropies of the visible (``ce-v``) and the
                infrared rows (``ce-i``) by the classifier of their modality.
            masks: part masks; None without parts.
            live: float32 logits [B, C] by the classifier of each row's modality, visible rows
                first.
            taught: float32 logits [B, C] by the momentum copy of the other modality's, in the same
                order of rows, without gradient.
        """
        raise NotImplementedError

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, *, cam_ids: Any = None, **_: Any
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Loss and detached metrics in training, else [B, (P + 1) * D].

        Args:
            inputs: images [B, 3, H, W].
            labels: [B] int64, in training.
            cam_ids: [B] camera numbers, in training; for a neck per modality always.
            **_: what public loops pass besides (``epoch``).

        Raises:
            MixERValueError: where ``labels`` or ``cam_ids`` are needed and missing, or with
                another number of cameras than of images.
        """
        infrared: Any = None
        if self.training or self.dual_neck:
            infrared = infrared_rows(cam_ids, inputs, self.public_name)
        stage_map = self.backbone(inputs)
        features, masks = stage_map.mean(dim=(2, 3)), None
        if self.parts > 0:
            part_features, masks = self.pool_parts(stage_map)
            features = torch.cat([part_features, features], dim=1)
        neck_inputs = (features, infrared) if self.dual_neck else (features,)
        if not self.training:
            return self.bn_neck(*neck_inputs)
        labels = training_labels(labels, self.public_name)
        # Before the neck, which may overwrite the features.
        rows, identities = mined_rows(self, features, labels)
        center = center_separation_loss(rows, identities, *self.margins)
        features = self.bn_neck(*neck_inputs)
        logits = self.classifier(features).float()
        visible_logits, infrared_logits, taught = modality_logits(self, features, infrared)
        terms = {
            "cc": center,
            "acc": accuracy(logits, labels),
            "ce": F.cross_entropy(logits, labels),
            "ce-v": mean_cross_entropy(visible_logits, labels[~infrared]),
            "ce-i": mean_cross_entropy(infrared_logits, labels[infrared]),
        }
        live = torch.cat([visible_logits, infrared_logits])
        loss, metrics = self.losses(terms, masks, live, taught)
        return loss, {name: value.detach() for name, value in metrics.items()}
