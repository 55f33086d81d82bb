"""The loops of three forms of network: what a step is, with the plug-in and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin import mixer_loss
from mixer_plugin.baselines.loops import Batch
from tests.contract.toys import make_batch
from tests.networks import LossInside, PlainTokens, TwoStreams


@dataclass(frozen=True)
class Form:
    """A network, the line that attaches to it, and its loop.

    Attributes:
        build: makes the network.
        line: of the adapter.
        step: the loss of a batch whose visible rows stand before its infrared ones.
        classes: path of the classifier.
    """

    build: Callable[[], nn.Module]
    line: str
    step: Callable[[nn.Module, Batch], Tensor]
    found: str


def two_streams(net: nn.Module, batch: Batch) -> Tensor:
    pooled, logits = net(*batch.images.chunk(2))
    loss = F.cross_entropy(logits, batch.labels) + pooled.square().mean()
    return loss + mixer_loss(net, batch.labels) if hasattr(net, "mixer") else loss


def loss_inside(net: nn.Module, batch: Batch) -> Tensor:
    return net(batch.images, batch.labels, cam_ids=batch.cams)[0]


def plain_tokens(net: nn.Module, batch: Batch) -> Tensor:
    logits, features = net(batch.images)
    loss = F.cross_entropy(logits, batch.labels) + features.square().mean()
    return loss + mixer_loss(net, batch.labels, batch.modality) if hasattr(net, "mixer") else loss


FORMS = {
    "two streams": Form(
        lambda: TwoStreams(trunk="small-deep"),
        'GenericAdapter("base_resnet.base.layer4", "bottleneck:input", neck="bottleneck", '
        'pool=GeM(3.0), inputs="two-stream", base_losses="identity", trial=(32, 16))',
        two_streams,
        "stage base_resnet.base.layer4 (4 blocks), embedding before bottleneck, "
        "6 classes from classifier",
    ),
    "loss inside": Form(
        LossInside,
        'GenericAdapter("backbone.layer4", "bn_neck:input", neck="bn_neck", pool=GeM(3.0), '
        'modality=Cameras(), loss="forward", base_losses=["identity"], trial=(32, 16))',
        loss_inside,
        "stage backbone.layer4 (4 blocks), embedding before bn_neck, 6 classes from classifier",
    ),
    "plain tokens": Form(
        PlainTokens,
        'GenericAdapter(("base.blocks.2", "base.norm"), "bottleneck:input", neck="bottleneck", '
        'pool=class_token, classifier="classifier", trial=(32, 16))',
        plain_tokens,
        "stage base.blocks.2, base.norm (1 block), embedding before bottleneck, "
        "6 classes from classifier",
    ),
}


def build(form: Form) -> nn.Module:
    """The same network each time."""
    torch.manual_seed(0)
    return form.build()


def batch_of(seed: int = 0) -> Batch:
    """Visible rows before infrared ones."""
    return make_batch(seed, rows="blocks")


def train(form: Form, net: nn.Module, steps: int = 3) -> None:
    """Optimizer steps over a base and what is attached to it."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    torch.manual_seed(1)
    net.train()
    for seed in range(steps):
        loss = form.step(net, batch_of(seed))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
