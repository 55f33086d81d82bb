"""Whether a model's forward takes the call that its adapter evaluates images by."""

from __future__ import annotations

import inspect

from torch import nn

from mixer_plugin.adapters.base import Adapter, LossInForward
from mixer_plugin.adapters.generic import GenericAdapter


def evaluation_trouble(model: nn.Module, adapter: Adapter) -> str | None:
    """Why features cannot be extracted, and what to do; None where the forward takes the call.

    None as well where that cannot be told: an adapter with an ``embed`` of its own, or a forward
    without a signature (a scripted network).
    """
    own = type(adapter).embed
    call: tuple[int, tuple[str, ...]] | None = None
    if own is LossInForward.embed:
        call = 1, ("cam_ids",)
    elif own is GenericAdapter.embed and isinstance(adapter, GenericAdapter):
        call = adapter.evaluation_arguments(model)
    if call is None:
        return None
    positional, names = call
    base = getattr(type(model), "mixer_base", type(model))
    try:
        signature = inspect.signature(base.forward)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(model, *["images"] * positional, **dict.fromkeys(names))
    except TypeError as error:
        shown = ", ".join([*["images"] * positional, *(f"{name}=…" for name in names)])
        return (
            f"Features are extracted by model({shown}), but {base.__name__}.forward{signature} "
            f"does not take that: {error}. Where an argument holds the rows' modality, wrap with "
            "GenericAdapter(…, modality='its name'); where it takes both modalities' images, with "
            "inputs='two-stream'; give others a default, or pass inputs=, a function "
            "run(model, images, modality)."
        )
    return None
