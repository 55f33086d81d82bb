"""Lighter related heads: the part of a stage that is cloned, and its input."""

from __future__ import annotations

import torch
from torch import nn

from mixer_plugin.adapters.base import Adapter, Tap, submodule
from mixer_plugin.errors import MixERValueError
from mixer_plugin.heads import clone_stage


def stage_parts(
    adapter: Adapter, model: nn.Module, blocks: str
) -> tuple[nn.Module, dict[str, Tap]]:
    """The module that related heads clone, by ``MixERConfig.related_blocks``.

    Returns:
        The part of the stage that is cloned (the whole of it for ``low-rank``, which clones none),
        and the taps that replace or join the adapter's: ``stage_input`` before the last block;
        ``stage_output``.

    Raises:
        MixERValueError: if the last block is asked for and the stage has no more than one.
    """
    stage = adapter.stage_module(model)
    if blocks == "all":
        return stage, {}
    paths = adapter.stage_blocks(model)
    if blocks == "low-rank":
        return stage, {"stage_output": Tap(paths[-1], "output")}
    modules = [submodule(model, path) for path in paths]
    # Norms and activations between blocks or behind them are no blocks: they have no matrix.
    starts = [i for i, m in enumerate(modules) if any(p.dim() > 1 for p in m.parameters())]
    if len(starts) < 2:
        raise MixERValueError(
            f"The stage {adapter.stage_path(model)!r} is a single block, or a "
            f"{type(stage).__name__} that cannot be taken apart; "
            'related_blocks="last" needs an nn.Sequential of at least two blocks. Use '
            'related_blocks="all" or, on maps [B, C, H, W], "low-rank"; or give the adapter the '
            "path of the sequential inside the stage, or override Adapter.stage_blocks."
        )
    last = starts[-1]
    part = modules[last] if last == len(modules) - 1 else nn.Sequential(*modules[last:])
    clone = adapter.taps(model)["stage_input"].clone
    return part, {"stage_input": Tap(paths[last], "input", clone)}


def stage_channels(adapter: Adapter, model: nn.Module) -> tuple[int, int]:
    """Channels of the maps that the stage takes and gives, by a trial run without data.

    Raises:
        MixERValueError: if the stage does not turn maps [B, C, H, W] into maps.
    """
    stage = clone_stage(adapter.stage_module(model)).to("meta").eval()
    first = next((m for m in stage.modules() if isinstance(m, nn.Conv2d)), None)
    reason = "it has no convolution"
    if first is not None:
        x = first.weight.new_empty(2, first.in_channels, 16, 16)
        try:
            with torch.no_grad():
                shape = list(adapter.run_stage(stage, x, 0).shape)
            if len(shape) == 4:
                return first.in_channels, shape[1]
            reason = f"it gives {shape}"
        except Exception as error:  # whatever a foreign module makes of a wrong shape
            reason = f"{list(x.shape)}: {error}"
    raise MixERValueError(
        'related_blocks="low-rank" adds convolutions to the map of the stage '
        f"{adapter.stage_path(model)!r}, which does not turn maps [B, C, H, W] into maps "
        f'({reason}). Use related_blocks="all" or "last".'
    )
