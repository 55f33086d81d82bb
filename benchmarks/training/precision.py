"""Autocast and loss scaling; in mode "f" apart for base and heads."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.attach import base_parameters, mixer_parameters
from mixer_plugin.benchmarks.training.public_recipe import Plan
from mixer_plugin.forward.mixed import MixedModule

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class OptimPart:
    """Parameters that one optimizer steps, and the scale of the gradients they get.

    Attributes:
        name: ``all``; ``base`` and ``heads`` where they must not see each other.
        parameters: what is stepped.
        optimizer: of these.
        scaler: switched off unless the precision is fp16.
    """

    name: str
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def make_parts(
    model: nn.Module, parameters: list[nn.Parameter], plan: Plan, precision: str, device: str
) -> list[OptimPart]:
    """One part; in mode "f", with the base in training too, one for it and one for the heads.

    One scaler for both would skip the base's step, and lower the base's scale, whenever the heads'
    gradients alone overflow: the base would no longer be what it is without heads.

    Args:
        model: the network, wrapped or not.
        parameters: what is to be trained.
        plan: makes the optimizers.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device: type of the device.
    """
    groups = {"all": parameters}
    if isinstance(model, MixedModule) and model.mixer.mode == "f":
        wanted = {id(p) for p in parameters}
        found = {"base": base_parameters(model), "heads": mixer_parameters(model)}
        chosen = {n: [p for p in own if id(p) in wanted] for n, own in found.items()}
        groups = {n: own for n, own in chosen.items() if own}
    scaled = precision == "fp16"
    return [
        OptimPart(
            name, own, plan.make_optimizer(model, own), torch.amp.GradScaler(device, enabled=scaled)
        )
        for name, own in groups.items()
    ]


def autocast(precision: str, device: str) -> AbstractContextManager[None]:
    """Autocast of a device type to the precision; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device, dtype=_DTYPES[precision])


def backward(parts: list[OptimPart], loss: Tensor) -> None:
    """Adds the gradients of a loss, each part's scaled by its own scaler.

    In mode "f" the two parts share no weight and no path, so each is gone through once.
    """
    scaled = [part.scaler.scale(loss) for part in parts]
    if len(parts) == 1 or not parts[0].scaler.is_enabled():
        torch.autograd.backward(scaled[0])
        return
    for i, (part, own) in enumerate(zip(parts, scaled, strict=True)):
        last = i + 1 == len(parts)
        torch.autograd.backward(own, inputs=part.parameters, retain_graph=not last)


def step_parts(parts: list[OptimPart], clip: float | None) -> None:
    """One optimizer step of every part that has gradients, clipped by the part's norm."""
    for part in parts:
        if all(p.grad is None for p in part.parameters):
            continue  # a scaler takes this for a mistake
        if clip is not None:
            part.scaler.unscale_(part.optimizer)
            torch.nn.utils.clip_grad_norm_(part.parameters, clip)
        part.scaler.step(part.optimizer)
        part.scaler.update()


def zero_grads(parts: list[OptimPart]) -> None:
    """Drops all gradients."""
    for part in parts:
        part.optimizer.zero_grad(set_to_none=True)


def parts_state(parts: list[OptimPart]) -> dict[str, Any]:
    """The state of the parts."""
    return {
        part.name: {"optimizer": part.optimizer.state_dict(), "scaler": part.scaler.state_dict()}
        for part in parts
    }


def load_parts(parts: list[OptimPart], state: dict[str, Any]) -> None:
    """Restores the state of :func:`parts_state`."""
    for part in parts:
        part.optimizer.load_state_dict(state[part.name]["optimizer"])
        if part.scaler.is_enabled():
            part.scaler.load_state_dict(state[part.name]["scaler"])
