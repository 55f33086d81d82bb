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
    given: dict[str, object] = {}
    own = type(adapter).embed
    if own is LossInForward.embed:
        given = {"cam_ids": None}
    elif own is GenericAdapter.embed and isinstance(adapter, GenericAdapter):
        given = {adapter.modality: None} if isinstance(adapter.modality, str) else {}
    else:
        return None
    base = getattr(type(model), "mixer_base", type(model))
    try:
        signature = inspect.signature(base.forward)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(model, "images", **given)
    except TypeError as error:
        call = ", ".join(["images", *(f"{name}=…" for name in given)])
        return (
            f"Features are extracted by model({call}), but {base.__name__}.forward{signature} "
            f"does not take that: {error}. Where an argument holds the rows' modality, wrap with "
            "GenericAdapter(…, modality='its name'); give others a default, or override "
            "Adapter.embed."
        )
    return None
