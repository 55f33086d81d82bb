"""IDKL (Ren and Zhang, CVPR 2024), written from the published code's behaviour (1KK077/IDKL).

Attribute and parameter names are the public model's on every path that counts; what the public
model builds and never uses is left out (:data:`BASELINE` ``.dead``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.losses import accuracy, batch_hard_triplet_loss
from mixer_plugin.baselines.common.trunks import Stages, channel_gate, load_trunk_weights
from mixer_plugin.baselines.common.two_stems import Holder
from mixer_plugin.baselines.idkl_losses import (
    LOSS_WEIGHTS,
    LossWeights,
    Split,
    class_alignment_loss,
    graph_alignment_loss,
    modality_gap_loss,
    pseudo_modality,
    purified_entropy_loss,
)
from mixer_plugin.baselines.loops import (
    Baseline,
    Loop,
    infrared_rows,
    mined_rows,
    training_labels,
)
from mixer_plugin.errors import MixERValueError, closest

# Weights of terms; the others' are 1.
FACTORS = {"IN_p": 0.1, "F_p": 0.1}


def gem(stage_map: Tensor, p: float = 3.0, eps: float = 1e-6) -> Tensor:
    """Generalised mean over positions, of values from below at ``eps``: [B, D, H, W] to [B, D]."""
    values = stage_map if stage_map.dtype == torch.float64 else stage_map.float()
    # In half precision eps ** p would be zero, and its root without a gradient.
    return values.clamp(min=eps).pow(p).mean(dim=(2, 3)).pow(1 / p).to(stage_map.dtype)


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


class Mask(nn.Module):
    """A gate in (0, 1) per channel and position, from that position's channels alone."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channel_attention = channel_gate(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        return self.channel_attention(x)


class Specific(NamedTuple):
    """GeM features [B, D] of the specific branch.

    Attributes:
        raw: of its map.
        raw_kept: of its map under a mask.
        normed: of its map's instance-normalised copy.
        normed_kept: of that under a mask.
        feature: of both copies together, each under both masks.
    """

    raw: Tensor
    raw_kept: Tensor
    normed: Tensor
    normed_kept: Tensor
    feature: Tensor


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
        self.mask1, self.mask2 = Mask(self.channels), Mask(self.channels)

    def forward(self, x: Tensor, specific: bool) -> tuple[Tensor, Specific | None]:
        """Images [B, 3, H, W] to the shared feature [B, D] and, if asked for, the specific ones.

        Retrieval does not use the specific branch; the public model runs it all the same.
        """
        x = self.shared_module_fr(x)
        shared = gem(self.shared_module_bh(x))
        if not specific:
            return shared, None
        raw = self.special(x)
        normed = self.IN(raw)
        raw_mask, normed_mask = self.mask2(raw), self.mask1(normed)
        raw_kept, normed_kept = raw_mask * raw, normed_mask * normed
        purified = normed_mask * raw_kept + raw_mask * normed_kept
        maps = (raw, raw_kept, normed, normed_kept, purified)
        return shared, Specific(*(gem(stage_map) for stage_map in maps))


class IDKL(nn.Module):
    """A shared branch for retrieval, taught by a modality-specific one in training.

    In training, ``model(images, labels, cam_ids=...)`` returns ``(loss, metrics)``; in evaluation
    the shared feature after the neck, [B, D]. For a batch of exactly one image the public model
    returns class logits in place of it (it drops the batch dimension, and takes the feature for a
    batch of 2048): a mistake that is not repeated here.

    Args:
        backbone: both branches.
        num_classes: number of identities C.
        loss_weights: weights of the alignment losses.
        distalign: with TGSA, which needs an even number of rows per modality.
        margin: of both triplet losses.

    Attributes:
        mutual_learning: False; the public loop reads it at each epoch, and the public model, which
            lacks it, ends there.
    """

    def __init__(
        self,
        backbone: Branches,
        num_classes: int,
        *,
        loss_weights: LossWeights,
        distalign: bool = True,
        margin: float = 1.3,
    ) -> None:
        super().__init__()
        width = backbone.channels
        self.mutual_learning = False
        self.loss_weights, self.distalign, self.margin = loss_weights, distalign, margin

        self.backbone = backbone
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
            MixERValueError: in training without ``labels`` or ``cam_ids``, or if the rows are not
                grouped by identity with as many visible as infrared ones each.
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
        neck, neck_sp = self.bn_neck(shared), self.bn_neck_sp(specific.feature)
        return {
            "shared": shared,
            "specific": specific.feature,
            "normed": specific.normed,
            "normed_kept": specific.normed_kept,
            "logits_raw": self.C_sp_f(specific.raw),
            "logits_kept": self.C_sp_f(specific.raw_kept),
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


def idkl(
    num_classes: int,
    *,
    trunk: str = "resnet50",
    dataset: str = "sysu",
    weights: str | Path | None = None,
    last_stride: int = 1,
    loss_weights: str | None = None,
    distalign: bool | None = None,
    margin: float = 1.3,
) -> IDKL:
    """Builds IDKL with the settings of the public yml files.

    The public code has two sets of loss weights and takes one of them for a batch of exactly 120
    rows, which is SYSU-MM01's and LLCM's, the other for any other batch, such as RegDB's 60. Here
    the choice is the data set's, so that another batch size does not change the losses silently.

    Args:
        num_classes: number of identities.
        trunk: ``resnet50``, ``resnet18``, ``small`` or ``small-deep``.
        dataset: RegDB has its own loss weights and no TGSA.
        weights: local trunk checkpoint or None.
        last_stride: stride of both ``layer4``; the public ``drop_last_stride: true`` is 1.
        loss_weights: ``sysu`` or ``regdb``, see :data:`LOSS_WEIGHTS`; None: the data set's.
        distalign: with TGSA; None: the data set's.
        margin: of the triplet losses.

    Raises:
        MixERValueError: for values out of range.
    """
    if loss_weights is None:
        loss_weights = "regdb" if dataset == "regdb" else "sysu"
    if loss_weights not in LOSS_WEIGHTS:
        raise MixERValueError(
            f"Unknown loss_weights {loss_weights!r}.{closest(loss_weights, LOSS_WEIGHTS)}"
        )
    if last_stride not in (1, 2):
        raise MixERValueError(f"last_stride is {last_stride!r}; expected 1 or 2.")
    return IDKL(
        Branches(trunk, last_stride, weights),
        num_classes,
        loss_weights=LOSS_WEIGHTS[loss_weights],
        distalign=dataset != "regdb" if distalign is None else distalign,
        margin=margin,
    )


_UNUSED = "of the three whole ResNets each runs a part alone"
BASELINE = Baseline(
    build=idkl,
    loop=Loop,
    network=IDKL,
    dead={
        r"backbone\.shared_module_fr\.model_sh_fr\.layer[34]\..*": f"later stages: {_UNUSED}",
        r"backbone\.(shared_module_bh\.model_sh_bh|special\.special_module)\."
        r"(conv1|bn1|layer[12])\..*": f"first stages: {_UNUSED}",
        r"backbone\.special_att\..*": "an attention that no forward uses",
    },
)
