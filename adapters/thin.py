"""Thinner related heads: residual blocks that keep the strongest of their inner channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixer_plugin.errors import MixERValueError
from mixer_plugin.heads import clone_stage


def thinned(stage: nn.Module, share: float) -> nn.Module:
    """A clone of a stage whose residual blocks keep a share of their inner channels; 1: the stage.

    Inner channels lie between two convolutions of a block (``conv1``, ``bn1``, ``conv2``, …); the
    block's input and output stay as wide as they are. Those stay that weigh most in the next
    convolution: by the norm of its weights for a channel, times the scale that the batch norm
    between gives that channel (Liu et al., "Learning efficient convolutional networks through
    network slimming", ICCV 2017, whose criterion is the scale alone).

    Args:
        stage: with residual blocks inside.
        share: of the inner channels, in (0, 1].

    Raises:
        MixERValueError: if there is no such block, or its convolutions are grouped.
    """
    if share == 1:
        return stage
    clone = clone_stage(stage)
    blocks = [m for m in clone.modules() if _is_block(m)]
    if not blocks:
        raise MixERValueError(
            f"related_width={share} keeps a share of the channels inside residual blocks (conv1, "
            f"bn1, conv2, …), and the stage, a {type(stage).__name__}, has none. Use "
            "related_width=1.0."
        )
    for block in blocks:
        _thin_block(block, share)
    return clone


def _is_block(module: nn.Module) -> bool:
    parts = dict(module.named_children())
    return (
        isinstance(parts.get("conv1"), nn.Conv2d)
        and isinstance(parts.get("bn1"), _BatchNorm)
        and isinstance(parts.get("conv2"), nn.Conv2d)
    )


def _thin_block(block: nn.Module, share: float) -> None:
    parts = dict(block.named_children())
    number = 1
    while isinstance(parts.get(f"conv{number + 1}"), nn.Conv2d):
        before: Any = parts[f"conv{number}"]
        after: Any = parts[f"conv{number + 1}"]
        if before.groups > 1 or after.groups > 1:
            raise MixERValueError(
                f"related_width={share} cannot thin a {type(block).__name__} with grouped "
                "convolutions. Use related_width=1.0."
            )
        # A block may hold a set of norms for each kind of image: bn1, bn1_ir, ….
        norms: list[Any] = [
            m for n, m in parts.items() if n == f"bn{number}" or n.startswith(f"bn{number}_")
        ]
        scale = norms[0].weight
        strength = after.weight.detach().float().square().sum(dim=(0, 2, 3)).sqrt()
        if scale is not None:
            strength = strength * scale.detach().float().abs()
        count = max(round(share * len(strength)), 1)
        kept = strength.topk(count).indices.sort().values
        _keep(before, "weight", kept, 0)
        _keep(before, "bias", kept, 0)
        before.out_channels = after.in_channels = count
        for norm in norms:
            for name in ("weight", "bias", "running_mean", "running_var"):
                _keep(norm, name, kept, 0)
            norm.num_features = count
        _keep(after, "weight", kept, 1)
        number += 1


def _keep(module: nn.Module, name: str, kept: Tensor, dim: int) -> None:
    """Cuts a parameter or buffer down to some of its rows or columns."""
    value = getattr(module, name, None)
    if value is None:
        return
    cut = value.detach().index_select(dim, kept.to(value.device)).clone()
    if isinstance(value, nn.Parameter):
        cut = nn.Parameter(cut, requires_grad=value.requires_grad)
    setattr(module, name, cut)
