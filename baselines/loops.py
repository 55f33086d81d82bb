"""The training loops of the codebases, step by step.

The script family (DDAG, DEEN, SGEIL) computes its losses in module-level script code, which cannot
be imported; the ignite family (MPANet, SAAI, IDKL) computes them inside the network. A
:class:`Loop` has one form for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mixer_plugin.errors import MixERValueError
from mixer_plugin.releases import SYSU

INFRARED_CAMERAS = SYSU.infrared


@dataclass(frozen=True)
class Batch:
    """Training images in the row order of a loop.

    Attributes:
        images: float32 [B, 3, H, W].
        labels: int64 [B] in [0, C).
        modality: int64 [B], 0 visible, 1 infrared.
        cams: int64 [B], camera numbers; 3 and 6 are infrared.
        shapes: float32 [B, 3, H, W], body shapes of the images (SGEIL), or None.
    """

    images: Tensor
    labels: Tensor
    modality: Tensor
    cams: Tensor
    shapes: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """The result of one training forward.

    Attributes:
        outputs: the network's own outputs.
        loss: scalar with gradient, the total of the codebase's loop.
        terms: detached scalars by name.
        labels: [B] identities of the rows, for ``mixer_loss``; None where rows have no single
            identity (SGEIL's mixed batches).
    """

    outputs: Any
    loss: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None


class Loop(nn.Module):
    """A training loop around a network; ``loop(net, batch)`` is one training forward.

    What the loop carries from step to step is in its ``state_dict``. This base class is the ignite
    family's: the network returns ``(loss, metrics)``.

    Attributes:
        rows: order of a batch's rows: ``grouped`` (identity by identity, infrared and visible in
            turns) or ``blocks`` (visible rows, then infrared ones, of the same identities).
        needs_shapes: the loop takes body shapes beside the images.
        epoch: number of the current epoch, from 0.
    """

    rows: ClassVar[str] = "grouped"
    needs_shapes: ClassVar[bool] = False
    epoch: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("epoch", torch.tensor(-1))

    def start_epoch(self, net: nn.Module, epoch: int) -> None:
        """Called before the first step of an epoch; again, with no further effect, on a resume."""
        self.epoch.fill_(epoch)
        base: Any = bare(net)
        if getattr(base, "mutual_learning", False):
            # The public loops count epochs from 1.
            base.update_rate = min(100 / (epoch + 2), 1.0) * base.update_rate_

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        """One training forward: loss, its terms and the rows' labels."""
        epoch = int(self.epoch) + 1
        outputs = net(batch.images, batch.labels, cam_ids=batch.cams, epoch=epoch)
        return Step(outputs, outputs[0], outputs[1], batch.labels)

    def look(self, net: nn.Module, batch: Batch) -> Any:
        """One forward of a network in eval mode on rows of both modalities."""
        return net(batch.images, cam_ids=batch.cams)

    def stepped(self, net: nn.Module) -> None:
        """Called after each optimizer step."""


class ScriptLoop(Loop):
    """The script family's: ``net(visible, infrared, …)``, labels and losses in the loop."""

    rows = "blocks"

    def look(self, net: nn.Module, batch: Batch) -> Any:
        """One forward of a network in eval mode on rows of both modalities."""
        return net(*halves(batch))


def bare(net: nn.Module) -> nn.Module:
    """The network inside DDP, DataParallel and ``torch.compile`` wrappers."""
    while isinstance(getattr(net, "module", None), nn.Module) or hasattr(net, "_orig_mod"):
        net = net._orig_mod if hasattr(net, "_orig_mod") else net.module  # type: ignore[assignment]
    return net


def mined_rows(net: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows that a loss compares with each other: the tensors, or what ``net.gather`` makes.

    ``net.gather`` is a function that every network here takes as an attribute, such as
    :func:`mixer_plugin.distributed.gather.gather_rows`: each tensor [B, …] becomes the rows of all
    processes, with gradient. Every process then needs whole identities, and as many rows as the
    others, over which DDP's mean is that of all rows. Without it, nothing changes.

    Args:
        net: the network, also inside DDP or ``torch.compile``.
        *tensors: [B, …], of the same rows.
    """
    gather = getattr(bare(net), "gather", None)
    return tensors if gather is None else tuple(gather(*tensors))


def mined_blocks(net: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
    """As :func:`mined_rows`, for rows in ``blocks`` order: all visible rows, then all infrared."""
    if getattr(bare(net), "gather", None) is None:
        return tensors
    split = [half for tensor in tensors for half in tensor.chunk(2)]
    found = mined_rows(net, *split)
    return tuple(torch.cat(pair) for pair in zip(found[::2], found[1::2], strict=True))


def halves(batch: Batch) -> tuple[Tensor, Tensor]:
    """Visible and infrared images of a batch in ``blocks`` order.

    Raises:
        MixERValueError: if the halves differ in size or in labels.
    """
    middle = len(batch.labels) // 2
    if not torch.equal(batch.labels[:middle], batch.labels[middle:]):
        raise MixERValueError(
            "This loop takes visible rows first, then infrared rows of the same identities in the "
            f"same order; got labels {batch.labels.tolist()}. Use IdentitySampler(order='blocks')."
        )
    return batch.images[:middle], batch.images[middle:]


def infrared_rows(cam_ids: Any, images: Tensor, network: str) -> Tensor:
    """Mask [B] of the rows that an infrared camera took, as the ignite family reads it.

    Args:
        cam_ids: [B] camera numbers.
        images: [B, 3, H, W].
        network: its name, for the message.

    Raises:
        MixERValueError: without camera numbers, or with another number of them than of images.
    """
    if cam_ids is None:
        raise MixERValueError(
            f"{network} got no cam_ids; it reads each row's modality from its camera "
            f"({' and '.join(map(str, INFRARED_CAMERAS))} are infrared). Pass cam_ids=."
        )
    cams = torch.as_tensor(cam_ids, device=images.device)
    if cams.shape != images.shape[:1]:
        raise MixERValueError(
            f"{network} got cam_ids of shape {tuple(cams.shape)} for {len(images)} images; "
            "expected one camera number per image."
        )
    return (cams == INFRARED_CAMERAS[0]) | (cams == INFRARED_CAMERAS[1])


def training_labels(labels: Tensor | None, network: str) -> Tensor:
    """The labels given to a network of the ignite family in training.

    Raises:
        MixERValueError: if there are none.
    """
    if labels is None:
        raise MixERValueError(
            f"{network} got no labels in training mode. Call model(images, labels, cam_ids=…), or "
            "model.eval() first to get features."
        )
    return labels


@dataclass(frozen=True)
class Baseline:
    """One network of the field, as its public code has it.

    Attributes:
        network: its class: ``network(num_classes, *, trunk, dataset, weights, **options)``.
        loop: makes the loop around it: ``loop()``.
        dead: regular expression of public parameter names that ours leave out → the reason.
        options: in place of the network's own defaults.
        text: what it is; empty: what the file of its network says.
    """

    network: type[nn.Module]
    loop: Callable[[], Loop]
    dead: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
