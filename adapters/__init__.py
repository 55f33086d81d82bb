"""One file per codebase: where its stage, its embedding and its rows' modality are."""

from __future__ import annotations

if not __name__.startswith("mixer_plugin."):
    raise ImportError("import mixer_plugin.adapters, not adapters")

from mixer_plugin.adapters.base import Adapter, Call, LossInForward, LossInLoop, Tap
from mixer_plugin.adapters.generic import GenericAdapter
from mixer_plugin.adapters.registry import list_adapters, register_adapter, resolve_adapter

__all__ = [
    "Adapter",
    "Call",
    "GenericAdapter",
    "LossInForward",
    "LossInLoop",
    "Tap",
    "list_adapters",
    "register_adapter",
    "resolve_adapter",
]
