"""One file per codebase: where its stage, its embedding and its rows' modality are."""

from __future__ import annotations

if not __name__.startswith("mixer_plugin."):
    raise ImportError("import mixer_plugin.adapters, not adapters")

from mixer_plugin.adapters.base import Adapter, Call, LossInForward, LossInLoop, Tap
from mixer_plugin.adapters.generic import (
    Cameras,
    GeM,
    GenericAdapter,
    TwoStream,
    class_token,
    max_pool,
    mean_pool,
    patch_mean,
    token_mean,
)
from mixer_plugin.adapters.registry import list_adapters, register_adapter, resolve_adapter

__all__ = [
    "Adapter",
    "Call",
    "Cameras",
    "GeM",
    "GenericAdapter",
    "LossInForward",
    "LossInLoop",
    "Tap",
    "TwoStream",
    "class_token",
    "list_adapters",
    "max_pool",
    "mean_pool",
    "patch_mean",
    "register_adapter",
    "resolve_adapter",
    "token_mean",
]
