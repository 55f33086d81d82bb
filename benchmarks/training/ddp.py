"""One training over several processes: DDP, and agreement in each step."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixer_plugin.distributed.gather import gather_rows
from mixer_plugin.distributed.processes import all_processes, count_processes
from mixer_plugin.distributed.sync_batchnorm import synchronise_norms, unsynchronise_norms
from mixer_plugin.forward.mixed import MixedModule


@contextlib.contextmanager
def spanning(model: nn.Module, parameters: list[nn.Parameter], gather: bool) -> Iterator[None]:
    """Within the block a model is ready for DDP; in one process nothing changes.

    Args:
        model: the network itself, wrapped or not.
        parameters: what is trained. DDP wants a gradient for everything that may have one, so the
            rest asks for none.
        gather: norms and losses span the rows of all processes: batch normalisation, the losses of
            our baselines that compare rows, and MixER's.
    """
    if count_processes() == 1:
        yield
        return
    trained = {id(p) for p in parameters}
    still = [p for p in model.parameters() if p.requires_grad and id(p) not in trained]
    with contextlib.ExitStack() as stack:
        for parameter in still:
            stack.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
        if gather:
            if synchronise_norms(model):
                stack.callback(unsynchronise_norms, model)
            if not hasattr(model, "gather"):
                stack.callback(delattr, model, "gather")
                model.gather = gather_rows  # type: ignore[assignment]  # an attribute like any other
            if isinstance(model, MixedModule):
                stack.callback(setattr, model.mixer, "config", model.mixer.config)
                model.mixer.config = dataclasses.replace(model.mixer.config, gather=True)
        # Of 1 x 1 kernels, whose memory is the same in either format.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        yield


def distributed(model: nn.Module, device: torch.device) -> nn.Module:
    """The model under DDP if there are several processes, else the model itself."""
    if count_processes() == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


@contextlib.contextmanager
def exchanging(net: Any, last: bool) -> Iterator[None]:
    """Around forward and backward of one part of a batch: gradients are exchanged in the last."""
    with contextlib.nullcontext() if last or count_processes() == 1 else net.no_sync():
        yield


def reached(loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """Which parameters the backward of a loss will give a gradient, bool [n] on the CPU."""
    found: set[int] = set()
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting.extend(after for after, _ in node.next_functions)
    return torch.tensor([id(p) in found for p in parameters])


def touching(loss: Tensor, parameters: list[nn.Parameter], found: Tensor) -> Tensor:
    """The loss plus a zero that depends on every parameter it does not reach.

    DDP waits for a gradient of every parameter; a batch that SGEIL has mixed gives MixER's heads
    none. DDP's own search for such parameters starts at the network's outputs, and does not see the
    losses that a loop takes elsewhere.
    """
    left = [p.reshape(-1)[:0].sum() for p, use in zip(parameters, found, strict=True) if not use]
    return loss + torch.stack(left).sum().to(loss.dtype) if left else loss


def drop_untouched(parameters: list[nn.Parameter], found: Tensor) -> None:
    """Drops the zero gradients of parameters that no process has reached.

    As in one process, an optimizer then leaves it alone, where a zero would let its momentum and
    its weight decay go on.
    """
    anywhere = all_processes().max(found.int())
    for parameter, use in zip(parameters, anywhere.tolist(), strict=True):
        if not use:
            parameter.grad = None


def agreed(number: int | None) -> int | None:
    """The signal that any process has received, agreed by all at the same step."""
    if count_processes() == 1:
        return number
    return int(all_processes().max(torch.tensor([number or 0]))) or None


def means(scalars: Mapping[str, float]) -> dict[str, float]:
    """Means over the processes; each name over those that have it."""
    if count_processes() == 1:
        return dict(scalars)
    told: list[Any] = [None] * count_processes()
    dist.all_gather_object(told, dict(scalars))
    names = dict.fromkeys(name for one in told for name in one)
    values = {name: [one[name] for one in told if name in one] for name in names}
    return {name: sum(own) / len(own) for name, own in values.items()}


def same_step(step: int) -> bool:
    """Whether every process has come to the same step."""
    share = all_processes()
    low, high = -share.max(torch.tensor([-step])), share.max(torch.tensor([step]))
    return bool(low == high)


def as_in_first(state: Mapping[str, Tensor]) -> None:
    """Gives tensors of a state dict the first process's values, in place."""
    if count_processes() == 1:
        return
    for value in state.values():
        sent = value.detach().contiguous()
        dist.broadcast(sent, 0)
        value.detach().copy_(sent)
