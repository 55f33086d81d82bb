"""SAAI (Fang, Yang and Fu, ICCV 2023), written to be equal to the public code xiaoye-hhh/SAAI.

Structure, attribute and parameter names are the public model's, so that its checkpoints and its
training loop fit; so are the outputs, tested against it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.losses import center_separation_loss, mean_cross_entropy
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


class PartPooling(nn.Module):
    """Means of a map under learned soft masks, one per part token.

    Args:
        channels: channels D of the map.
        parts: number of parts P.
        positions: positions H * W of the map; each has a learned embedding.
    """

    def __init__(self, channels: int, parts: int, positions: int) -> None:
        super().__init__()
        self.part_tokens = nn.Parameter(nn.init.kaiming_normal_(torch.empty(parts, channels)))
        # (sic: the public parameter name)
        self.pos_embeding = nn.Parameter(
            nn.init.kaiming_normal_(torch.empty(positions, channels), mode="fan_out")
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, D, H, W] to part means [B, P * D] and masks in (0, 1) [B, P, H * W].

        Raises:
            MixERValueError: if H * W is not ``positions``.
        """
        height, width = x.shape[2:]
        positions = self.pos_embeding.shape[0]
        if height * width != positions:
            raise MixERValueError(
                f"The part pooling got a map of {height}x{width} positions; it holds embeddings "
                f"for {positions}. Resize the images, or build the model with their image_size=."
            )
        pixels = x.flatten(2).transpose(1, 2)
        masks = (self.part_tokens @ (pixels + self.pos_embeding).transpose(1, 2)).sigmoid()
        return part_means(x, masks), masks


class DualNeck(nn.Module):
    """One batch normalisation per modality, biases frozen at zero.

    Writes IN PLACE into its input, as the public one does, although a copy would be cleaner: code
    that attaches to SAAI must cope with that, and is tested on this model.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn_neck_v = nn.BatchNorm1d(width)
        self.bn_neck_i = nn.BatchNorm1d(width)
        self.bn_neck_v.bias.requires_grad_(False)
        self.bn_neck_i.bias.requires_grad_(False)

    def forward(self, x: Tensor, infrared: Tensor) -> Tensor:
        """Features [B, D] and a mask [B] of infrared rows to ``x`` itself, overwritten."""
        x[infrared] = self.bn_neck_i(x[infrared])
        x[~infrared] = self.bn_neck_v(x[~infrared])
        return x


def part_diversity_loss(masks: Tensor) -> Tensor:
    """Minus the mean distance between two masks of an image (public option ``dp="l2"``).

    Args:
        masks: [B, P, positions].
    """
    first, second = torch.triu_indices(masks.shape[1], masks.shape[1], 1, device=masks.device)
    if len(first) == 0:
        return masks.new_zeros(())
    square = (masks[:, first] - masks[:, second]).float().pow(2).mean(2)
    return -square.clamp(min=1e-12).sqrt().mean()


class SAAI(nn.Module):
    """Shared trunk, part and global pooling, a neck per modality, three classifiers.

    In training, ``model(images, labels, cam_ids=...)`` returns ``(loss, metrics)``; in evaluation
    the features after the neck, [B, (P + 1) * D], parts first. Rows of cameras 3 and 6 are
    infrared.

    Args:
        backbone: the trunk.
        num_classes: number of identities C.
        parts: number of parts P; 0 leaves the global mean alone and ``attn_pool`` out.
        positions: positions H * W of the trunk's last map.
        update_rate: share of the live per-modality classifiers that enters their moving copies at
            each training step.
        margin1: pull margin of :func:`center_separation_loss`.
        margin2: push margin of it.
        cs_w: weight of it.
        dp_w: weight of :func:`part_diversity_loss`; applied twice, as in the public code.

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
        parts: int = 7,
        positions: int = 18 * 9,
        update_rate: float = 0.02,
        margin1: float = 0.01,
        margin2: float = 0.7,
        cs_w: float = 1.0,
        dp_w: float = 0.5,
    ) -> None:
        super().__init__()
        width = backbone.channels * (parts + 1)
        self.parts = parts
        self.modality_attention = backbone.modality_attention
        self.mutual_learning = True
        self.update_rate = self.update_rate_ = update_rate
        self.margin1, self.margin2 = margin1, margin2
        self.cs_w, self.dp_w = cs_w, dp_w

        self.backbone = backbone
        if parts > 0:
            self.attn_pool = PartPooling(backbone.channels, parts, positions)
        self.bn_neck = DualNeck(width)
        self.visible_classifier = nn.Linear(width, num_classes, bias=False)
        self.infrared_classifier = nn.Linear(width, num_classes, bias=False)
        self.visible_classifier_ = moving_copy(self.visible_classifier)
        self.infrared_classifier_ = moving_copy(self.infrared_classifier)
        self.classifier = nn.Linear(width, num_classes, bias=False)

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, *, cam_ids: Any = None, **_: Any
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics (``ce``, ``id``, ``cs``, ``dp``) in training, else [B, (P + 1) * D].

        Args:
            inputs: images [B, 3, H, W].
            labels: [B] int64, in training.
            cam_ids: [B] camera numbers, always.
            **_: what public loops pass besides (``epoch``).

        Raises:
            MixERValueError: without ``cam_ids``, with another number of them than of images, or
                without ``labels`` in training.
        """
        infrared = infrared_rows(cam_ids, inputs, "SAAI")
        stage_map = self.backbone(inputs)
        features = stage_map.mean(dim=(2, 3))
        masks = None
        if self.parts > 0:
            part_features, masks = self.attn_pool(stage_map)
            features = torch.cat([part_features, features], dim=1)
        if not self.training:
            return self.bn_neck(features, infrared)
        labels = training_labels(labels, "SAAI")
        # Before the neck, which overwrites the features.
        rows, identities = mined_rows(self, features, labels)
        loss_cs = center_separation_loss(rows, identities, self.margin1, self.margin2)
        loss_dp = loss_cs.new_zeros(()) if masks is None else part_diversity_loss(masks) * self.dp_w
        loss_ce, loss_id = self._identity_losses(self.bn_neck(features, infrared), labels, infrared)
        metrics = {"ce": loss_ce, "id": loss_id, "cs": loss_cs, "dp": loss_dp}
        loss = loss_id + loss_cs * self.cs_w + loss_dp * self.dp_w
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _identity_losses(
        self, features: Tensor, labels: Tensor, infrared: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The shared classifier's loss, and its sum with the per-modality and soft ones."""
        loss_ce = F.cross_entropy(self.classifier(features).float(), labels)
        logits_v, logits_i, taught = modality_logits(self, features, infrared)
        loss_id = (
            loss_ce
            + mean_cross_entropy(logits_v, labels[~infrared])
            + mean_cross_entropy(logits_i, labels[infrared])
            + F.cross_entropy(torch.cat([logits_v, logits_i]), taught.softmax(1))
        )
        return loss_ce, loss_id


def saai(
    num_classes: int,
    *,
    trunk: str = "resnet50",
    dataset: str = "sysu",
    weights: str | Path | None = None,
    image_size: tuple[int, int] = (288, 144),
    last_stride: int = 1,
    modality_attention: int | None = None,
    parts: int = 7,
    update_rate: float = 0.02,
    margin1: float = 0.01,
    margin2: float = 0.7,
    cs_w: float = 1.0,
    dp_w: float = 0.5,
) -> SAAI:
    """Builds SAAI with the defaults of the public command line, which win over its yml files.

    Args:
        num_classes: number of identities.
        trunk: see :func:`mixer_plugin.baselines.common.trunks.create_trunk`.
        dataset: RegDB's public configuration has no modality attention; the others have level 2.
        weights: local trunk checkpoint or None.
        image_size: (height, width) of the images; fixes the number of map positions.
        last_stride: stride of ``layer4``; the public ``drop_last_stride: true`` is 1.
        modality_attention: 0, 1 or 2; None: the data set's.
        parts: number of parts, 0 for none.
        update_rate: see :class:`SAAI`, as the rest.
        margin1: pull margin.
        margin2: push margin.
        cs_w: center-separation weight.
        dp_w: part-diversity weight.

    Raises:
        MixERValueError: for values out of range.
    """
    if parts < 0:
        raise MixERValueError(f"parts is {parts}; expected 0 (global mean alone) or more.")
    if not 0 <= update_rate <= 1:
        raise MixERValueError(f"update_rate is {update_rate}; expected a share in [0, 1].")
    if modality_attention is None:
        modality_attention = 0 if dataset == "regdb" else 2
    backbone = create_trunk(
        trunk, last_stride=last_stride, modality_attention=modality_attention, weights=weights
    )
    height, width = backbone.map_size(image_size)
    return SAAI(
        backbone,
        num_classes,
        parts=parts,
        positions=height * width,
        update_rate=update_rate,
        margin1=margin1,
        margin2=margin2,
        cs_w=cs_w,
        dp_w=dp_w,
    )


BASELINE = Baseline(build=saai, loop=Loop, network=SAAI)
