"""What related heads clone: a stage, several in a row, or a part of one; and its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from mixer_plugin.adapters.base import Adapter, Tap, submodule
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERValueError
from mixer_plugin.heads import Chain, clone_stage, parts_of

T = TypeVar("T")


def stage_parts(
    adapter: Adapter, model: nn.Module, config: MixERConfig
) -> tuple[nn.Module, dict[str, Tap]]:
    """The module that related heads clone, by the ``related_…`` options.

    Returns:
        The base's own modules: the stage; several as a :class:`Chain`; the stage's last block; or,
        for ``low-rank``, which clones none, the stage. And the taps that replace or join the
        adapter's: ``stage_input`` before what is cloned; ``stage_output``, where that is read.

    Raises:
        MixERValueError: if there are fewer stages; or if the last block is asked for and the stage
            has no more than one.
    """
    part, taps = _cloned_part(adapter, model, config)
    if config.related_blocks == "low-rank" or config.related_fusion == "cross-attention":
        clone = adapter.taps(model)["stage_input"].clone
        taps = {**taps, "stage_output": Tap(adapter.stage_blocks(model)[-1], "output", clone)}
    return part, taps


def _cloned_part(
    adapter: Adapter, model: nn.Module, config: MixERConfig
) -> tuple[nn.Module, dict[str, Tap]]:
    if config.related_stages > 1:
        return _chain(adapter, model, config.related_stages)
    stage, blocks = adapter.stage_module(model), config.related_blocks
    if blocks != "last":
        return stage, {}
    paths = adapter.stage_blocks(model)
    modules = [submodule(model, path) for path in paths]
    starts = [i for i, m in enumerate(modules) if has_matrix(m)]
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


def has_matrix(module: nn.Module) -> bool:
    """Whether a module is a block: norms and activations between blocks have no matrix."""
    return any(p.dim() > 1 for p in module.parameters())


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
    clone = adapter.taps(model)["stage_input"].clone
    chain = Chain([*earlier, adapter.stage_module(model)])
    return chain, {"stage_input": Tap(adapter.entry(model, paths[0]), "input", clone)}


def check_stages(adapter: Adapter, model: nn.Module, config: MixERConfig) -> None:
    """Runs clones of the stages one after the other, on tensors without data.

    Raises:
        MixERValueError: as :func:`stage_parts`; or if what one stage gives does not fit the next.
    """
    parts = parts_of(stage_parts(adapter, model, config)[0])
    if len(parts) == 1:
        return
    clones = [clone_stage(part).to("meta").eval() for part in parts]

    def run(x: Tensor) -> None:
        for clone in clones:
            x = adapter.run_stage(clone, x, 0)

    _, reasons = trial(clones[0], run, model)
    if reasons:
        count = config.related_stages
        raise MixERValueError(
            f"related_stages={count} runs clones of {', '.join(adapter.stages(model)[-count:])} "
            f"one after the other, and what one gives does not fit the next "
            f"({'; '.join(reasons)}). Use a smaller related_stages; or name stages that follow "
            "each other, GenericAdapter(…, earlier=(…)), or override Adapter.stages."
        )


def trial(
    stage: nn.Module, run: Callable[[Tensor], T], model: nn.Module
) -> tuple[T | None, list[str]]:
    """Runs a function on tensors without data, of the shapes that a stage of a model may take.

    Returns:
        What it gives for the first shape that fits, and nothing; or None, and why each one failed.
    """
    like = next(stage.parameters(), torch.empty(0, device="meta"))
    reasons = []
    for shape in _input_shapes(stage, model):
        x = like.new_empty(shape)
        try:
            with torch.no_grad():
                return run(x), []
        except Exception as error:  # whatever a foreign module makes of a wrong shape
            reasons.append(f"{list(shape)}: {error}")
    return None, reasons


def _input_shapes(stage: nn.Module, model: nn.Module) -> list[tuple[int, ...]]:
    """Shapes that the stage may take, by its first layer: a map, tokens, or channels last."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            return [(2, module.in_channels, 32, 32)]
        if isinstance(module, nn.LayerNorm):
            width = module.normalized_shape[-1]
            # A stage that makes a map of its tokens takes as many as there are position embeddings.
            places = dict.fromkeys(p.shape[1] for p in model.parameters() if _has_places(p, width))
            tokens = ((2, count, width) for count in (5, *places))
            return [*tokens, (2, 8, 8, width), (2, width, 8, 8)]
    return []


def _has_places(parameter: Tensor, width: int) -> bool:
    shape = parameter.shape
    return len(shape) == 3 and shape[0] == 1 and shape[1] > 1 and shape[2] == width


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


def attended_channels(adapter: Adapter, model: nn.Module) -> int:
    """Channels C of the base's own map and of a related one, by a trial run without data.

    Raises:
        MixERValueError: unless both are maps [B, C, H, W], or tokens [B, T, C], of one shape.
    """
    stage, last = adapter.stage_module(model), submodule(model, adapter.stage_blocks(model)[-1])
    clone = clone_stage(stage).to("meta").eval()
    given: list[list[int]] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        given.append(list(output.shape) if isinstance(output, Tensor) else [])

    twin = dict(zip(stage.modules(), clone.modules(), strict=True)).get(last)
    if twin is not None:
        twin.register_forward_hook(keep)
    shapes, reasons = trial(
        clone, lambda x: (list(x.shape), list(adapter.run_stage(clone, x, 0).shape)), model
    )
    if shapes is None:
        reason = "; ".join(reasons) or "it has no convolution and no layer norm"
    else:
        taken, related = shapes
        reason = f"it gives {related}"
        if given[-1:] != [related]:
            reason = f"it gives {given[-1] if given else 'none'}, and a related head {related}"
        elif len(related) == 3:
            return related[2]
        elif len(related) == 4 and (len(taken) == 3 or taken[2] == taken[3]):  # channels first
            return related[1]
    raise MixERValueError(
        'related_fusion="cross-attention" attends from a related map to the map of the stage '
        f"{adapter.stage_path(model)!r}, and these are not two maps [B, C, H, W] or tokens "
        f'[B, T, C] of one shape ({reason}). Use related_fusion="concatenation".'
    )
