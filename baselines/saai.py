"""SAAI (Fang, Yang and Fu, ICCV 2023), written to be equal to the public code xiaoye-hhh/SAAI.

Structure, attribute and parameter names are the public model's, so that its checkpoints and its
training loop fit; so are the outputs, tested against it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.part_network import PartNetwork
from mixer_plugin.baselines.common.part_pooling import part_means
from mixer_plugin.baselines.common.trunks import make_trunk
from mixer_plugin.baselines.loops import Baseline, Loop
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


class SAAI(PartNetwork):
    """See :class:`PartNetwork`; learned part tokens, and a neck per modality.

    The defaults are those of the public command line, which win over its yml files. Metrics:
    ``ce``, ``id``, ``cs``, ``dp``. Without parts there is no ``attn_pool``.

    Args:
        dataset: RegDB's public configuration has no modality attention; the others have level 2.
        image_size: (height, width) of the images; fixes the number of map positions, and a vision
            transformer's position embeddings.
        last_stride: stride of ``layer4``; of a vision transformer 1.
        modality_attention: 0, 1 or 2; None: the data set's; of a vision transformer 0.
        parts: number of parts.
        update_rate: of the momentum classifiers.
        margin1: pull margin.
        margin2: push margin.
        cs_w: weight of the center separation.
        dp_w: weight of :func:`part_diversity_loss`; applied twice, as in the public code.
    """

    public_name = "SAAI"
    dual_neck = True

    def __init__(
        self,
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
    ) -> None:
        if modality_attention is None:
            modality_attention = 0 if dataset == "regdb" else 2
        backbone = make_trunk(
            trunk,
            image_size=image_size,
            last_stride=last_stride,
            modality_attention=modality_attention,
            weights=weights,
        )
        super().__init__(backbone, parts, update_rate, (margin1, margin2))
        self.cs_w, self.dp_w = cs_w, dp_w
        if parts > 0:
            height, width = self.backbone.map_size(image_size)
            self.attn_pool = PartPooling(self.backbone.channels, parts, height * width)
        self.bn_neck = DualNeck(self.width)
        self.add_modality_classifiers(num_classes)
        self.classifier = nn.Linear(self.width, num_classes, bias=False)

    def pool_parts(self, stage_map: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, D, H, W] to part means [B, P * D] and masks [B, P, H * W]."""
        return self.attn_pool(stage_map)

    def losses(
        self, terms: dict[str, Tensor], masks: Tensor | None, live: Tensor, taught: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Identity losses with soft labels across modalities, center separation, diversity."""
        soft = F.cross_entropy(live, taught.softmax(1))
        identity, center = terms["ce"] + terms["ce-v"] + terms["ce-i"] + soft, terms["cc"]
        diversity = center.new_zeros(())
        if masks is not None:
            diversity = part_diversity_loss(masks) * self.dp_w
        loss = identity + center * self.cs_w + diversity * self.dp_w
        return loss, {"ce": terms["ce"], "id": identity, "cs": center, "dp": diversity}


BASELINE = Baseline(network=SAAI, loop=Loop)
