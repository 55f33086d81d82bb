"""A moving average of a network's weights and statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Tensors = tuple[Tensor, ...] | list[Tensor]


def weight_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of all weights and buffers of a model, from its present state on.

    The decay rises as (1 + t) / (10 + t) at first, so that the random weights of the beginning are
    soon forgotten in a short run. Counters, which have no mean, are the latest.

    Args:
        model: left as it is.
        decay: in (0, 1).
    """

    @torch.no_grad()
    def update(means: _Tensors, latest: _Tensors, updates: Tensor | int) -> None:
        count = int(updates)
        share = 1 - min(decay, (1 + count) / (10 + count))
        for mean, value in zip(means, latest, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:
                mean.copy_(value)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    average.n_averaged += 1  # of the initial weights, which its first update would replace
    return average
