"""MPANet (Wu et al., CVPR 2021), written to be equal to the public code DoubtedSteam/MPANet.

Attribute and parameter names are the public model's, all of whose weights count.
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.part_network import PartNetwork
from mixer_plugin.baselines.common.part_pooling import part_means
from mixer_plugin.baselines.common.trunks import Trunk
from mixer_plugin.baselines.loops import Baseline, Loop


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
    """KL divergence of the live classifiers' probabilities from the momentum copies' (``KL``).

    ``mean_rows sum_c p_c (log p_c - log q_c)`` with p live and q taught. The gradient flows through
    p, the distribution that it weighs with, as in the public code.

    Args:
        live: logits [B, C], with gradient.
        taught: logits [B, C] of the other modality's momentum copies, without.
    """
    return F.kl_div(taught.log_softmax(1), live.softmax(1), reduction="batchmean")


class MPANet(PartNetwork):
    """See :class:`PartNetwork`; convolutional part masks, and one neck.

    The defaults are those of the public yml files, the same for every data set. Metrics: ``p-reg``
    (with parts), ``cc``, ``acc``, ``ce``, ``ce-v``, ``ce-i``, ``KL``. Without parts, the public
    ``pattern_attention: false``, there is no ``spatial_attention``.

    Args:
        dataset: without effect on the network.
        last_stride: stride of ``layer4``.
        modality_attention: 0, 1 or 2.
        parts: number of parts.
        margin: distance between two identities' centres from which on ``cc`` costs nothing.
        weight_sep: weight of :func:`part_overlap`.
        weight_sid: weight of each modality's cross-entropy; added twice, as in the public code.
        weight_kl: weight of :func:`classifier_agreement`.
        update_rate: of the momentum classifiers.
    """

    public_name = "MPANet"

    def __init__(
        self,
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
    ) -> None:
        backbone = Trunk(
            trunk, last_stride=last_stride, modality_attention=modality_attention, weights=weights
        )
        super().__init__(backbone, parts, update_rate, (0.0, margin))
        self.weight_sep, self.weight_sid, self.weight_kl = weight_sep, weight_sid, weight_kl
        if parts > 0:
            self.spatial_attention = nn.Conv2d(self.backbone.channels, parts, 1)
            nn.init.zeros_(self.spatial_attention.bias)  # type: ignore[arg-type]
            self.activation = nn.Sigmoid()
        self.add_modality_classifiers(num_classes)
        self.bn_neck = nn.BatchNorm1d(self.width)
        self.bn_neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(self.width, num_classes, bias=False)

    def pool_parts(self, stage_map: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, D, H, W] to part means [B, P * D] and masks [B, P, H, W]."""
        masks = self.activation(self.spatial_attention(stage_map))
        return part_means(stage_map, masks), masks

    def losses(
        self, terms: dict[str, Tensor], masks: Tensor | None, live: Tensor, taught: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Identity losses, agreement of the classifiers, center separation and part overlap."""
        overlap = {} if masks is None else {"p-reg": part_overlap(masks)}
        agreement = classifier_agreement(live, taught)
        own = 2 * self.weight_sid * (terms["ce-v"] + terms["ce-i"])
        loss = terms["ce"] + own + self.weight_kl * agreement
        loss = loss + terms["cc"] + self.weight_sep * overlap.get("p-reg", 0.0)
        return loss, {**overlap, **terms, "KL": agreement}


BASELINE = Baseline(network=MPANet, loop=Loop)
