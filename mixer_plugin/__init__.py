"""MixER as a plug-in for visible-infrared person re-identification."""

from __future__ import annotations

import importlib
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

_here = _Path(__file__).resolve().parent
if not (_here / "adapters").is_dir() and (_here.parent / "setup.py").is_file():
    # A source checkout: adapters, baselines and benchmarks lie beside this folder.
    __path__.append(str(_here.parent))

__version__ = "1.0.0"

if TYPE_CHECKING:
    from mixer_plugin.adapters import list_adapters, register_adapter
    from mixer_plugin.attach import (
        base_parameters,
        check_optimizer,
        mixer_features,
        mixer_loss,
        mixer_param_groups,
        mixer_parameters,
        reset_heads,
        unwrap_mixer,
        wrap_with_mixer,
    )
    from mixer_plugin.checkpoints import base_state_dict, load_base_state_dict, mixer_state_dict
    from mixer_plugin.config import MixERConfig
    from mixer_plugin.errors import MixERError
    from mixer_plugin.evaluation import evaluate
    from mixer_plugin.extraction import extract_features
    from mixer_plugin.features import FeatureSet, Modality
    from mixer_plugin.matching import scores

# Where each public name lies. It is imported when it is first asked for, so that a command that
# needs no torch starts without it.
_HOMES = {
    "adapters": ("list_adapters", "register_adapter"),
    "attach": (
        *("base_parameters", "check_optimizer", "mixer_features", "mixer_loss"),
        *("mixer_param_groups", "mixer_parameters", "reset_heads", "unwrap_mixer"),
        "wrap_with_mixer",
    ),
    "checkpoints": ("base_state_dict", "load_base_state_dict", "mixer_state_dict"),
    "config": ("MixERConfig",),
    "errors": ("MixERError",),
    "evaluation": ("evaluate",),
    "extraction": ("extract_features",),
    "features": ("FeatureSet", "Modality"),
    "matching": ("scores",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
