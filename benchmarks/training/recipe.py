"""How a network is trained: our own short recipe."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.data.loading.transforms import Augmentation
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.options import check_options, option


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

    p: int = option(8, minimum=1)
    k: int = option(4, minimum=1)
    iterations: int = option(1000, minimum=1)
    lr: float = option(3e-3, above=0)
    warmup: int = option(50, minimum=0)
    weight_decay: float = option(5e-4, minimum=0)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: str = option("adamw", choices=("adamw", "adam", "sgd"))
    schedule: str = option("cosine", choices=("cosine", "step"))
    milestones: tuple[int, ...] = option(())
    gamma: float = option(0.1, above=0, maximum=1)
    clip: float | None = option(None, noun="a norm", above=0)

    def __post_init__(self) -> None:
        check_options(self)
        if (self.schedule == "step") != bool(self.milestones):
            raise MixERValueError(
                f"Recipe has schedule={self.schedule!r} and milestones={list(self.milestones)}; "
                "schedule 'step' needs milestones, and 'cosine' takes none."
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise MixERValueError(
                f"Recipe.milestones is {list(self.milestones)}; expected ascending steps."
            )

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
        # On a CPU, too, torch goes through all parameters at once: the same bits in fewer calls.
        return torch.optim.AdamW(parameters, foreach=True, **settings)

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
        return asdict(value) if is_dataclass(value) else value.tolist()  # type: ignore[arg-type]

    found: dict[str, Any] = json.loads(json.dumps(options, default=convert))
    return found
