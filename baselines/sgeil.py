"""SGEIL (Feng et al., CVPR 2023), written to be equal to the public code jiawei151/SGIEL_VIReID.

Attribute and parameter names are the public model's on every path that counts; what the public
model builds and never uses is left out (:data:`BASELINE` ``.dead``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines.common.cutmix import Cut, draw_cut
from mixer_plugin.baselines.common.losses import at_least_float32, batch_hard_triplet_loss
from mixer_plugin.baselines.common.norm_sets import KindStages, KindStem
from mixer_plugin.baselines.common.two_stems import (
    DEAD_STEMS,
    Holder,
    TwoStemNetwork,
    frozen_bias_norm,
    reid_linear,
)
from mixer_plugin.baselines.loops import Baseline, Batch, ScriptLoop, Step, bare, halves, mined_rows
from mixer_plugin.baselines.sgeil_losses import (
    balance,
    complement_loss,
    consistency_loss,
    mutual_loss,
    orthogonality_loss,
)
from mixer_plugin.errors import MixERRuntimeError, MixERValueError


def generalized_mean(stage_map: Tensor, p: float = 3.0) -> Tensor:
    """Power mean over positions (GeM): non-negative [B, D, H, W] to [B, D].

    Half-precision maps are pooled in float32: their third powers would overflow.
    """
    x = stage_map.flatten(2)
    return ((at_least_float32(x) ** p).mean(-1) + 1e-12).pow(1 / p).to(x.dtype)


class SGEIL(TwoStemNetwork):
    """A stem per modality and shared stages with norms per kind; body shapes in training.

    In training, ``net(visible, infrared, visible_shapes, infrared_shapes)`` returns a dictionary:
    under ``rgbir`` the feature before (``bef``) and after the neck (``aft``), [2B, D] each, its
    logits [2B, C], its projection [2B, D / 4] on the shape subspace (``zp``), the rest (``other``)
    and the rest's logits (``logit2``); under ``shape``, of the body shapes, ``bef``, ``aft``,
    ``zp`` and the logits of ``zp``. Without shapes it returns the feature before the neck and the
    logits. With ``mode`` 1 (visible) or 2 (infrared), ``net(images, images, mode=mode)`` returns
    the feature before and after the neck, [B, D] each, L2-normalised.

    Args:
        dataset: without effect on the network.
        weights: local trunk checkpoint or None; the norms of each kind start as its norms.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        trunk: str = "resnet50",
        dataset: str = "sysu",
        weights: str | Path | None = None,
    ) -> None:
        super().__init__(trunk, weights)
        width = self.widths[4]
        (thermal,), (visible,), (base,) = (part.children() for part in self.children())
        self.thermal_module = Holder("thermal", KindStem(thermal))
        self.visible_module = Holder("visible", KindStem(visible))
        self.base_resnet = Holder("base", KindStages(base))
        self.bottleneck = frozen_bias_norm(width)
        self.classifier = reid_linear(width, num_classes)
        self.bottleneck_shape = frozen_bias_norm(width)
        self.classifier_shape = reid_linear(width // 4, num_classes)
        self.projs = nn.ParameterList(torch.empty(width, width // 4) for _ in range(2))
        for projection in self.projs:
            nn.init.kaiming_normal_(projection, nonlinearity="linear")
        self.bottleneck_ir = frozen_bias_norm(width)

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        x1_shape: Tensor | None = None,
        x2_shape: Tensor | None = None,
        mode: int = 0,
    ) -> Any:
        """See the class and :meth:`stem_maps`; body shapes are images [B, 3, H, W] too."""
        if mode > 0:
            x = self.stem_maps(x1, x2, mode)
            pooled = generalized_mean(self.base_resnet(x, modal=mode - 1))
            feature = (self.bottleneck if mode == 1 else self.bottleneck_ir)(pooled)
            return F.normalize(pooled), F.normalize(feature)
        visible = self.base_resnet(self.visible_module(x1), modal=0)
        infrared = self.base_resnet(self.thermal_module(x2), modal=1)
        pooled = generalized_mean(torch.cat([visible, infrared]))
        middle = len(x1)
        feature = torch.cat([self.bottleneck(pooled[:middle]), self.bottleneck_ir(pooled[middle:])])
        if x1_shape is None or x2_shape is None:
            return pooled, self.classifier(feature)
        shapes = [
            self.visible_module(x1_shape, shape=True),
            self.thermal_module(x2_shape, shape=True),
        ]
        return self._train_outputs(pooled, feature, self.base_resnet(torch.cat(shapes), modal=3))

    def _train_outputs(self, pooled: Tensor, feature: Tensor, shape_map: Tensor) -> Any:
        pooled_shape = generalized_mean(shape_map)
        shape = self.bottleneck_shape(pooled_shape)
        shape_part = shape @ self.projs[1]
        part, rest = split_off_shape(feature, self.projs[0])
        return {
            "rgbir": {
                "bef": pooled,
                "aft": feature,
                "logit": self.classifier(feature),
                "logit2": self.classifier(rest),
                "zp": part,
                "other": rest,
            },
            "shape": {
                "bef": pooled_shape,
                "aft": shape,
                "logit": self.classifier_shape(shape_part),
                "zp": shape_part,
            },
        }


def split_off_shape(feature: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """The projection [B, d] of features [B, D], and the features without what lies in its span."""
    basis = F.normalize(projection, dim=0)
    return feature @ projection, feature - (feature @ basis) @ basis.T


class SGEILLoop(ScriptLoop):
    """Identity, triplet, mutual and shape losses; a moving average of the network; CutMix.

    The average, ``twin``, is a whole second network: it teaches shape in training, and the public
    code evaluates it beside the first. It is made from the network at the first
    :meth:`start_epoch`, and is in the loop's state dict: load that before or after.

    With ``net.gather`` the processes mix their batches together, as the first of them draws. The
    teachers of :func:`complement_loss` need no rows of other processes: they are of one identity.

    Args:
        mix: probability of a batch whose images get patches of the other modality.

    Raises:
        MixERValueError: for a probability out of range.
    """

    needs_shapes = True

    def __init__(self, mix: float = 0.2) -> None:
        super().__init__()
        if not 0 <= mix <= 1:
            raise MixERValueError(f"mix is {mix}; expected a probability in [0, 1].")
        self.mix = mix
        self.twin: nn.Module | None = None
        self._loaded: dict[str, Any] | None = None

    def start_epoch(self, net: nn.Module, epoch: int) -> None:
        """Makes the twin if there is none."""
        super().start_epoch(net, epoch)
        if self.twin is None:
            self.twin = copy.deepcopy(bare(net)).requires_grad_(False)
            if self._loaded is not None:
                self.twin.load_state_dict(self._loaded)
                self._loaded = None
        self.twin.train()

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As any module's; the twin's part waits for :meth:`start_epoch` if there is none yet."""
        if self.twin is None:
            state = dict(state_dict)
            twin = {key: state.pop(key) for key in list(state) if key.startswith("twin.")}
            self._loaded = {key.removeprefix("twin."): value for key, value in twin.items()} or None
            state_dict = state
        return super().load_state_dict(state_dict, *args, **kwargs)

    def rate(self) -> float:
        """Share of the network that enters the twin at each step of the current epoch."""
        epoch = int(self.epoch)
        return 1 / (1000 if epoch < 20 else 10000 if epoch < 85 else 100000)

    @torch.no_grad()
    def stepped(self, net: nn.Module) -> None:
        """Moves the twin's weights; heads, necks and projections at twice the rate.

        Its batch statistics are its own forwards'.
        """
        live, rate = dict(bare(net).named_parameters()), self.rate()
        for name, average in self._twin().named_parameters():
            fast = any(word in name for word in ("classifier", "bottleneck", "projs"))
            average.add_(live[name] - average, alpha=2 * rate if fast else rate)

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        """One training forward, as in train.py with the triplet loss that run.sh asks for.

        Terms: ``id``, ``tri``, ``shape`` (identity of the shapes), ``mutual``, ``ortho``,
        ``consistent`` (agreement with the twin's shapes), ``erased`` (identity without shape) and
        ``complement``; ``w1`` is the weight of ``consistent`` and ``w2`` that of the last two. A
        mixed batch has ``id``, ``shape``, ``mutual`` and ``ortho`` alone, and no labels in its
        :class:`Step`: its rows are of two identities and two modalities.

        Raises:
            MixERValueError: without shapes, or with another number or size of them than of images.
            MixERRuntimeError: before :meth:`start_epoch`.
        """
        halves(batch)  # its check
        shapes = _shapes(batch)
        if self.mix > 0 and float(mined_rows(net, torch.rand(()).reshape(1))[0][0]) < self.mix:
            cut = draw_cut(len(batch.labels) // 2, *batch.images.shape[2:])
            return self._mixed(net, batch, shapes, cut)
        inputs = [*batch.images.chunk(2), *shapes.chunk(2)]
        with torch.no_grad():
            taught = self._twin()(*inputs)["shape"]
        outputs = net(*inputs)
        images, labels = outputs["rgbir"], batch.labels
        network: Any = bare(net)
        rows, identities = mined_rows(net, images["bef"], labels)
        terms = {
            "id": F.cross_entropy(images["logit"], labels),
            "tri": batch_hard_triplet_loss(rows, identities, margin=0.3),
            "shape": F.cross_entropy(outputs["shape"]["logit"], labels),
            "mutual": mutual_loss(images["logit"]),
            "ortho": orthogonality_loss(network.projs[0]),
        }
        total = torch.stack(list(terms.values())).sum()

        def weighed(part: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return (
                consistency_loss(part, taught, network.classifier_shape.weight),
                F.cross_entropy(logits, labels),
                complement_loss(logits, outputs["shape"]["zp"], labels),
            )

        consistent, erased, complement = weighed(images["zp"], images["logit2"])
        terms |= {"consistent": consistent, "erased": erased, "complement": complement}
        features = images["bef"].detach().requires_grad_()
        again = weighed(*shape_parts(network, features))
        terms["w1"], terms["w2"] = balance(
            again[0], again[1] + again[2], features, lambda sizes: mined_rows(net, sizes)[0]
        )
        total = total + terms["w1"] * consistent + terms["w2"] * (erased + complement)
        return Step(outputs, total, {k: v.detach() for k, v in terms.items()}, labels)

    def _mixed(self, net: nn.Module, batch: Batch, shapes: Tensor, cut: Cut) -> Step:
        inputs = [*cut.paste(batch.images).chunk(2), *cut.paste(shapes).chunk(2)]
        outputs = net(*inputs)
        with torch.no_grad():
            self._twin()(*inputs)  # for its batch statistics
        own = batch.labels
        others = own[: len(own) // 2][cut.partners].repeat(2)
        share = cut.share(*batch.images.shape[2:])

        def identity(logits: Tensor) -> Tensor:
            first, second = F.cross_entropy(logits, own), F.cross_entropy(logits, others)
            return share * first + (1 - share) * second

        network: Any = bare(net)
        terms = {
            "id": identity(outputs["rgbir"]["logit"]),
            "shape": identity(outputs["shape"]["logit"]),
            "mutual": mutual_loss(outputs["rgbir"]["logit"]),
            "ortho": orthogonality_loss(network.projs[0]),
        }
        total = torch.stack(list(terms.values())).sum()
        return Step(outputs, total, {k: v.detach() for k, v in terms.items()}, None)

    def _twin(self) -> nn.Module:
        if self.twin is None:
            raise MixERRuntimeError(
                "The loop has no twin network yet. Call loop.start_epoch(net, epoch) before the "
                "first step of every epoch."
            )
        return self.twin


def shape_parts(network: Any, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Once more what follows the pooling: ``zp`` and ``logit2`` of features before the neck.

    The public loop differentiates one output of the network by another. Under DDP and
    ``torch.compile`` no output lies on the way to another; these layers cost next to nothing.

    Args:
        network: as :class:`SGEIL`; its batch statistics stay as they are.
        pooled: [2B, D], visible, then infrared rows.

    Returns:
        [2B, d] and [2B, C].
    """
    necks = zip(pooled.chunk(2), (network.bottleneck, network.bottleneck_ir), strict=True)
    feature = torch.cat([_normalised(rows, neck) for rows, neck in necks])
    part, rest = split_off_shape(feature, network.projs[0])
    return part, F.linear(rest, network.classifier.weight)


def _normalised(rows: Tensor, neck: Any) -> Tensor:
    # Its own forward, whatever kind of norm it is, on buffers that are thrown away.
    still = copy.copy(neck)
    still._buffers = {name: buffer.clone() for name, buffer in neck._buffers.items()}
    return still.forward(rows)


def _shapes(batch: Batch) -> Tensor:
    if batch.shapes is None:
        raise MixERValueError(
            "SGEIL trains on body shapes beside the images, and the batch has none. Give "
            "Batch(shapes=[B, 3, H, W]): per row, the image of its person's silhouette."
        )
    if batch.shapes.shape != batch.images.shape:
        raise MixERValueError(
            f"Images of shape {list(batch.images.shape)} came with body shapes of shape "
            f"{list(batch.shapes.shape)}; expected one per image, of its size."
        )
    return batch.shapes.to(batch.images.dtype)


BASELINE = Baseline(
    network=SGEIL,
    loop=SGEILLoop,
    dead={
        **DEAD_STEMS,
        r"base_resnet\.base\.bn1_(ir|shape)\..*": "further norms of those first layers",
        r"classifier_ir\.weight": "a classifier that no forward uses",
    },
)
