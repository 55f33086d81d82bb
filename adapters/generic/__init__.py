"""Any network, by the paths of its modules: the adapter, its poolings and its ways of input."""

from __future__ import annotations

from mixer_plugin.adapters.generic.adapter import GenericAdapter
from mixer_plugin.adapters.generic.inputs import Cameras, TwoStream
from mixer_plugin.adapters.generic.pooling import (
    GeM,
    class_token,
    max_pool,
    mean_pool,
    patch_mean,
    token_mean,
)

__all__ = [
    "Cameras",
    "GeM",
    "GenericAdapter",
    "TwoStream",
    "class_token",
    "max_pool",
    "mean_pool",
    "patch_mean",
    "token_mean",
]
