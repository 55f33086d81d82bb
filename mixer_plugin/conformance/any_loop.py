"""A training loop around any network that an adapter describes: one forward, one plain loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mixer_plugin.adapters import Adapter, Cameras, GenericAdapter, LossInForward, TwoStream
from mixer_plugin.adapters.generic.inputs import forward_parameters
from mixer_plugin.baselines.loops import Batch, Loop, Step, bare, halves
from mixer_plugin.errors import MixERRuntimeError

Caller = Callable[[nn.Module, Batch], Any]
RECIPE: dict[str, Any] = {
    "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
    "schedule": {"epochs": 1, "milestones": [], "gamma": 0.1},
}


@dataclass(frozen=True)
class ToldStep(Step):
    """A step whose rows' modality only the loop knows.

    Attributes:
        modality: [B] int64 for ``mixer_loss``; None where the forward knows it.
    """

    modality: Tensor | None = None


class AnyLoop(Loop):
    """Calls a network as its adapter says that it is called.

    Where the forward returns the loss, that is the loss. Else it is the cross-entropy of every
    output that has a column per class, and the mean square of every other one: any loss whose
    gradient reaches the base will do.
    """

    def __init__(self, adapter: Adapter, classes: int, own: Caller | None = None) -> None:
        super().__init__()
        self.adapter, self.classes, self.own = adapter, classes, own

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        """One training forward."""
        outputs = self.call(net, batch)
        mixer = getattr(bare(net), "mixer", None)
        if self.adapter.adds_loss() == "forward":
            loss, metrics = loss_and_metrics(outputs)
            if mixer is not None and "mixer/total" not in metrics:
                metrics = {**metrics, "mixer/total": mixer.terms["total"]}
            return ToldStep(outputs, loss, metrics, batch.labels)
        record = None if mixer is None else mixer.record
        told = batch.modality if record is not None and record.modality is None else None
        loss = loss_of_outputs(outputs, batch.labels, self.classes)
        return ToldStep(outputs, loss, {}, batch.labels, told)

    def call(self, net: nn.Module, batch: Batch) -> Any:
        """The network's outputs for a training batch."""
        if self.own is not None:
            return self.own(net, batch)
        adapter, model = self.adapter, bare(net)
        if isinstance(adapter, GenericAdapter):
            if callable(adapter.inputs) and not isinstance(adapter.inputs, TwoStream):
                return adapter.inputs(net, batch.images, batch.modality)
            named: dict[str, Any] = {}
            if isinstance(adapter.modality, Cameras):
                named[adapter.modality.argument] = adapter.modality.of(batch.modality)
            elif isinstance(adapter.modality, str):
                named[adapter.modality] = batch.modality
            if adapter.adds_loss() == "forward":
                named[adapter.label_argument] = batch.labels
            if isinstance(adapter.inputs, TwoStream):
                visible, infrared, switch = adapter.inputs.names(model)
                images = dict(zip((visible, infrared), halves(batch), strict=True))
                both = {} if switch is None else {switch: 0}
                return net(**images, **both, **named)
            return net(batch.images, **named)
        if isinstance(adapter, LossInForward):
            return net(batch.images, batch.labels, cam_ids=batch.cams)
        return net(*halves(batch)) if _takes_halves(model) else net(batch.images)


class HalvesLoop(AnyLoop):
    """The same for two arguments of images: visible rows, then infrared ones."""

    rows = "blocks"


def any_loop(
    adapter: Adapter, model: nn.Module, classes: int, own: Caller | None = None
) -> AnyLoop:
    """The loop for a network, by how its adapter calls it.

    Args:
        adapter: of the network.
        model: bare or wrapped.
        classes: columns of its logits.
        own: in place of that, ``own(net, batch)`` calls the network in training; visible rows of
            the batch stand before infrared ones.
    """
    if own is not None:
        return HalvesLoop(adapter, classes, own)
    two = isinstance(adapter, GenericAdapter) and isinstance(adapter.inputs, TwoStream)
    return (HalvesLoop if two or _takes_halves(model) else AnyLoop)(adapter, classes)


def _takes_halves(model: nn.Module) -> bool:
    return {"x1", "x2"} <= forward_parameters(bare(model))[1].keys()


def loss_and_metrics(outputs: Any) -> tuple[Tensor, Mapping[str, Any]]:
    """The loss that a training forward returns, and the mapping beside it.

    Raises:
        MixERRuntimeError: if it returns no scalar where a loss is expected.
    """
    if isinstance(outputs, Mapping):
        loss, metrics = outputs.get("loss"), {k: v for k, v in outputs.items() if k != "loss"}
    else:
        values = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        loss = values[0] if values else None
        metrics = next((dict(v) for v in values[1:] if isinstance(v, Mapping)), {})
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.dim() > 1:
        raise MixERRuntimeError(
            'The training forward returns no loss. Leave out loss="forward", or give it its labels.'
        )
    return loss, metrics


def loss_of_outputs(outputs: Any, labels: Tensor, classes: int) -> Tensor:
    """A scalar of all floating outputs with a gradient, as :class:`AnyLoop` says.

    Raises:
        MixERRuntimeError: if no output has a gradient.
    """
    values = [v for v in tree_leaves(outputs) if isinstance(v, Tensor) and v.requires_grad]
    if not values:
        raise MixERRuntimeError("The training forward returns no tensor with a gradient.")
    parts = []
    for value in values:
        logits = value.dim() == 2 and value.shape[1] == classes and len(value) == len(labels)
        wide = value.float()
        parts.append(F.cross_entropy(wide, labels) if logits else wide.square().mean())
    return torch.stack(parts).sum()
