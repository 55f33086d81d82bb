"""What related heads clone: a stage, several in a row, or a part of one; and its input."""

from __future__ import annotations

import torch
from torch import nn

from mixer_plugin.adapters.base import Adapter, Tap, submodule
from mixer_plugin.adapters.thin import thinned
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERValueError
from mixer_plugin.heads import Chain, clone_stage


def stage_parts(
    adapter: Adapter, model: nn.Module, config: MixERConfig
) -> tuple[nn.Module, dict[str, Tap]]:
    """The module that related heads clone, by the ``related_…`` options.

    Returns:
        The stage; several as a :class:`Chain`; the stage's last block; or, for ``low-rank``, which
        clones none, the stage; thinned by ``related_width``. And the taps that replace or join the
        adapter's: ``stage_input`` before what is cloned; ``stage_output``.

    Raises:
        MixERValueError: if there are fewer stages, or they do not run one after the other; if the
            last block is asked for and the stage has no more than one; if there is nothing to thin.
    """
    if config.related_stages > 1:
        stage, taps = _chain(adapter, model, config.related_stages)
    else:
        stage, taps = _stage(adapter, model, config.related_blocks)
    return (stage if config.related_width == 1 else thinned(stage, config.related_width)), taps


def _stage(adapter: Adapter, model: nn.Module, blocks: str) -> tuple[nn.Module, dict[str, Tap]]:
    """The last stage, or what ``related_blocks`` takes of it."""
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


def _chain(adapter: Adapter, model: nn.Module, count: int) -> tuple[nn.Module, dict[str, Tap]]:
    """The last stages, and the tap before the first of them."""
    known = adapter.stages(model)
    if count > len(known):
        raise MixERValueError(
            f"related_stages={count}, but the adapter {adapter.name!r} knows {len(known)} of this "
            f"model: {', '.join(known)}. Use at most {len(known)}; or name those before it, "
            "GenericAdapter(…, earlier=(…)), or override Adapter.stages."
        )
    paths = known[-count:]
    earlier = (submodule(model, path) for path in paths[:-1])
    chain = Chain([*earlier, adapter.stage_module(model)])
    if trouble := _trial(adapter, chain):
        raise MixERValueError(
            f"related_stages={count} runs clones of {', '.join(paths)} one after the other, and "
            f"what one gives does not fit the next ({trouble}). Use a smaller related_stages; or "
            "name stages that follow each other, GenericAdapter(…, earlier=(…)), or override "
            "Adapter.stages."
        )
    clone = adapter.taps(model)["stage_input"].clone
    return chain, {"stage_input": Tap(paths[0], "input", clone)}


def _trial(adapter: Adapter, chain: Chain) -> str:
    """Runs a chain on tensors without data; what goes wrong, "" for nothing."""
    parts = [clone_stage(part).to("meta").eval() for part in chain]
    trouble = ""
    for shape in input_shapes(parts[0]):
        x = next(parts[0].parameters()).new_empty(shape)
        try:
            with torch.no_grad():
                for part in parts:
                    x = adapter.run_stage(part, x, 0)
            return ""
        except Exception as error:  # whatever a foreign module makes of a wrong shape
            trouble = trouble or str(error)
    return trouble


def input_shapes(stage: nn.Module) -> list[tuple[int, ...]]:
    """Shapes that the stage may take, by its first layer: a map, tokens, or channels last."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            return [(2, module.in_channels, 32, 32)]
        if isinstance(module, nn.LayerNorm):
            width = module.normalized_shape[-1]
            return [(2, 5, width), (2, 8, 8, width), (2, width, 8, 8)]
    return []


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
