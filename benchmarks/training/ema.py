"""A moving average of a network's weights and statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of everything in a state dict.

    The decay rises as (1 + t) / (10 + t) at first, so that the random weights of the beginning are
    soon forgotten in a short run. Counters, which have no mean, are the latest.

    Args:
        model: averaged from its present state on.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights after an optimizer step."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.values[key].lerp_(value, share)
            else:
                self.values[key].copy_(value)

    def copy_to(self, model: nn.Module) -> None:
        """Puts the average in the place of the network's weights and statistics."""
        model.load_state_dict(self.values)

    def state_dict(self) -> dict[str, Any]:
        """The average and its age."""
        return {"updates": self.updates, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved average."""
        self.updates = int(state["updates"])
        loaded: dict[str, Tensor] = state["values"]
        for key, value in loaded.items():
            self.values[key].copy_(value)
