"""Hooks that read tensors of a foreign model during a forward.

What a hook reads lies on the tapped sub-module itself, so that a replica of the model reads its
own, and only between :func:`open_taps` and :func:`close_taps`: outside a forward nothing is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixer_plugin.errors import MixERRuntimeError

if TYPE_CHECKING:
    from mixer_plugin.adapters import Tap


def _store(module: nn.Module, side: str, value: Any) -> None:
    values = getattr(module, side, None)
    if values is not None:
        values.append((value, _version(value)))


def _version(value: Any) -> int | None:
    """PyTorch's count of in-place writes to a tensor; None if it cannot be read."""
    if torch.compiler.is_compiling() or not isinstance(value, Tensor) or value.is_inference():
        return None
    return value._version


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()))


def tap_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Pre-hook: keeps the first argument."""
    _store(module, "_mixer_input", _first(args, kwargs))


def tap_input_clone(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Pre-hook: keeps a copy of the first argument, which the module will overwrite."""
    if getattr(module, "_mixer_input", None) is not None:
        _store(module, "_mixer_input", _first(args, kwargs).clone())


def tap_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Hook: keeps the output."""
    _store(module, "_mixer_output", output)


def tap_output_clone(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Hook: keeps a copy of the output, which the model will overwrite."""
    if getattr(module, "_mixer_output", None) is not None:
        _store(module, "_mixer_output", output.clone())


TAP_HOOKS = (tap_input, tap_input_clone, tap_output, tap_output_clone)


def add_tap(model: nn.Module, tap: Tap) -> Callable[[], None]:
    """Registers a tap's hook; returns the handle that removes it."""
    module = model.get_submodule(tap.path)
    if tap.side == "input":
        hook = tap_input_clone if tap.clone else tap_input
        return module.register_forward_pre_hook(hook, with_kwargs=True).remove
    return module.register_forward_hook(tap_output_clone if tap.clone else tap_output).remove


def open_taps(model: nn.Module, taps: Mapping[str, Tap]) -> None:
    """Starts recording, also in modules that have replaced others since the wrap.

    ``SyncBatchNorm.convert_sync_batchnorm`` replaces modules so.
    """
    compiling = torch.compiler.is_compiling()
    for tap in dict.fromkeys(taps.values()):
        module = model.get_submodule(tap.path)
        hooks = module._forward_pre_hooks if tap.side == "input" else module._forward_hooks
        if not compiling and not any(hook in TAP_HOOKS for hook in hooks.values()):
            add_tap(model, tap)
        setattr(module, f"_mixer_{tap.side}", [])


def collect_taps(model: nn.Module, taps: Mapping[str, Tap]) -> dict[str, list[Any]]:
    """The recorded tensors of each tap, one per call of its module.

    Raises:
        MixERRuntimeError: if the model has written into a tensor since it was read.
    """
    found: dict[str, list[Any]] = {}
    for name, tap in taps.items():
        kept = getattr(model.get_submodule(tap.path), f"_mixer_{tap.side}")
        if any(version is not None and version != _version(value) for value, version in kept):
            raise MixERRuntimeError(
                f"The model wrote into the {tap.side} of {tap.path!r} after tap {name!r} had read "
                "it. Let the tap copy what it reads: GenericAdapter(…, clone=True), or, in an "
                f"adapter of your own, Tap({tap.path!r}, {tap.side!r}, clone=True)."
            )
        found[name] = [value for value, _ in kept]
    return found


def close_taps(model: nn.Module, taps: Mapping[str, Tap]) -> None:
    """Stops recording and drops all recorded tensors."""
    for tap in taps.values():
        model.get_submodule(tap.path).__dict__.pop(f"_mixer_{tap.side}", None)
