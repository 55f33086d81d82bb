"""Training steps with MixER attached: in a codebase's own loop, or on a frozen base."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.attach import mixer_loss
from mixer_plugin.baselines.loops import Batch, Loop, Step
from mixer_plugin.forward.mixed import mixer_of


class WithMixER(Loop):
    """A codebase's loop around a wrapped network, its loss included wherever that is added."""

    def __init__(self, inner: Loop) -> None:
        super().__init__()
        self.inner = inner

    @property
    def rows(self) -> str:  # type: ignore[override]
        """As the codebase's."""
        return self.inner.rows

    def start_epoch(self, net: nn.Module, epoch: int) -> None:
        """As the codebase's."""
        self.inner.start_epoch(net, epoch)

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        """The codebase's step; in the script family ``loss + mixer_loss(net, labels)``."""
        step = self.inner(net, batch)
        if mixer_of(net).adds_loss_in_forward or step.labels is None:
            return step
        loss = step.loss + mixer_loss(net, step.labels)
        return Step(step.outputs, loss, {**step.terms, **_terms(net)}, step.labels)

    def stepped(self, net: nn.Module) -> None:
        """As the codebase's."""
        self.inner.stepped(net)


class FrozenBase(WithMixER):
    """The heads alone, on a base that stays as it is."""

    def start_epoch(self, net: nn.Module, epoch: int) -> None:
        """Does nothing: the codebase's loop does not run."""

    def forward(self, net: nn.Module, batch: Batch) -> Step:
        """One forward of the frozen base and the loss of the heads on it."""
        outputs = self.inner.look(net, batch)
        loss = mixer_loss(net, batch.labels)
        return Step(outputs, loss, _terms(net), batch.labels)

    def stepped(self, net: nn.Module) -> None:
        """Does nothing: the codebase's loop does not run."""


def _terms(net: nn.Module) -> dict[str, Tensor]:
    """MixER's terms under the names that the ignite family's metrics have them."""
    return {f"mixer/{name}": value for name, value in mixer_of(net).terms.items()}


def cut(batch: Batch, parts: int, rows: str) -> list[Batch]:
    """Cuts a batch of P·K·2 rows into equal parts of whole identities, each in the same row order.

    Args:
        batch: in the order ``rows``.
        parts: a divisor of P.
        rows: ``grouped``, or ``blocks`` (visible rows, then infrared ones).
    """
    if parts == 1:
        return [batch]
    index = torch.arange(len(batch.labels), device=batch.labels.device)
    if rows == "blocks":
        halves = index.view(2, parts, -1).transpose(0, 1).reshape(parts, -1)
    else:
        halves = index.view(parts, -1)
    fields = vars(batch).items()
    pieces: list[dict[str, Any]] = [
        {name: rows if rows is None else rows[own] for name, rows in fields} for own in halves
    ]
    return [Batch(**piece) for piece in pieces]


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Makes the networks' own random numbers (dropout, mixing) a function of (seed, step, rank).

    Each process of a distributed run has masks of its own, as it has rows of its own.
    """
    torch.manual_seed(seed * 1_000_003 + step + rank * 0x9E3779B1)
