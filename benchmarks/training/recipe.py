"""How a network is trained: our own short recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.data.loading.transforms import Augmentation
from mixer_plugin.errors import MixERValueError, check_keys, closest

_OPTIMIZERS = ("adamw", "adam", "sgd")
_SCHEDULES = ("cosine", "step")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one network is trained, in steps.

    Attributes:
        p: identities per batch.
        k: images per identity and modality; a batch has 2·p·k rows.
        iterations: optimizer steps.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        weight_decay: of the optimizer.
        augmentation: of the training images.
        optimizer: ``adamw``, ``adam`` or ``sgd`` (Nesterov momentum 0.9).
        schedule: after the warm-up: ``cosine``, half a cosine down to zero, or ``step``.
        milestones: steps at which ``step`` multiplies the rate by ``gamma``.
        gamma: see ``milestones``.
        clip: largest gradient norm; in mode "f" of base and heads apart; None: no clipping.
    """

    p: int = 8
    k: int = 4
    iterations: int = 1000
    lr: float = 3e-3
    warmup: int = 50
    weight_decay: float = 5e-4
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: str = "adamw"
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("p", "k", "iterations"):
            if getattr(self, name) < 1:
                raise MixERValueError(f"Recipe.{name} is {getattr(self, name)}; expected >= 1.")
        if self.lr <= 0 or self.weight_decay < 0 or self.warmup < 0:
            raise MixERValueError(
                f"Recipe has lr={self.lr}, weight_decay={self.weight_decay}, "
                f"warmup={self.warmup}; expected lr > 0 and the others >= 0."
            )
        for name, options in (("optimizer", _OPTIMIZERS), ("schedule", _SCHEDULES)):
            value = getattr(self, name)
            if value not in options:
                raise MixERValueError(f"Recipe.{name} is {value!r}.{closest(value, options)}")
        if (self.schedule == "step") != bool(self.milestones):
            raise MixERValueError(
                f"Recipe has schedule={self.schedule!r} and milestones={list(self.milestones)}; "
                "schedule 'step' needs milestones, and 'cosine' takes none."
            )
        if list(self.milestones) != sorted(set(self.milestones)) or not 0 < self.gamma <= 1:
            raise MixERValueError(
                f"Recipe has milestones={list(self.milestones)} and gamma={self.gamma}; expected "
                "ascending steps and a gamma in (0, 1]."
            )
        if self.clip is not None and self.clip <= 0:
            raise MixERValueError(f"Recipe.clip is {self.clip}; expected a norm > 0, or nothing.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Builds a recipe; raises :class:`MixERValueError` for an unknown key."""
        check_keys("recipe", values, (item.name for item in fields(cls)))
        values = dict(values)
        if isinstance(values.get("augmentation"), dict):
            inner = (item.name for item in fields(Augmentation))
            check_keys("recipe.augmentation", values["augmentation"], inner)
            values["augmentation"] = Augmentation(**values["augmentation"])
        if "milestones" in values:
            values["milestones"] = tuple(values["milestones"])
        return cls(**values)

    @property
    def precision(self) -> str:
        """``fp32``."""
        return "fp32"

    def identities_and_precision(self, baseline: str) -> tuple[int, str]:
        """Identities per batch, and the precision, of any network."""
        return self.p, self.precision

    def plan(self, baseline: str, labels: Tensor, modality: Tensor) -> Recipe:
        """The recipe itself, whatever the network and the training set."""
        return self

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then the schedule."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "step":
            return self.lr * self.gamma ** sum(step >= m for m in self.milestones)
        done = (step - self.warmup) / max(self.iterations - self.warmup, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))

    def epoch_steps(self, images: int) -> int:
        """As many steps as it takes to see as many images as there are."""
        return max(1, images // (2 * self.p * self.k))

    def make_optimizer(
        self, model: nn.Module, parameters: list[nn.Parameter]
    ) -> torch.optim.Optimizer:
        """One group of the parameters."""
        settings: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **settings)
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, **settings)
        return torch.optim.AdamW(parameters, **settings)

    def set_rates(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """The same rate for every group."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate(step)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return plain(self)


def plain(options: Any) -> dict[str, Any]:
    """A dataclass as JSON has it: lists for tuples, dictionaries for dataclasses within."""

    def convert(value: Any) -> Any:
        if hasattr(value, "__dataclass_fields__"):
            return {item.name: convert(getattr(value, item.name)) for item in fields(value)}
        if isinstance(value, Mapping):
            return {str(key): convert(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [convert(inner) for inner in value]
        return value.tolist() if isinstance(value, Tensor) else value

    return convert(options)
