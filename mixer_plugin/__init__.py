"""MixER as a plug-in for visible-infrared person re-identification."""

from __future__ import annotations

from pathlib import Path as _Path

_here = _Path(__file__).resolve().parent
if not (_here / "adapters").is_dir() and (_here.parent / "setup.py").is_file():
    # A source checkout: adapters, baselines and benchmarks lie beside this folder.
    __path__.append(str(_here.parent))

__version__ = "0.1.0"

from mixer_plugin.adapters import list_adapters, register_adapter
from mixer_plugin.attach import (
    base_parameters,
    check_optimizer,
    mixer_features,
    mixer_loss,
    mixer_param_groups,
    mixer_parameters,
    unwrap_mixer,
    wrap_with_mixer,
)
from mixer_plugin.checkpoints import base_state_dict, load_base_state_dict, mixer_state_dict
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERError
from mixer_plugin.evaluation import evaluate
from mixer_plugin.features import FeatureSet, Modality, extract_features
from mixer_plugin.matching import scores

__all__ = [
    "FeatureSet",
    "MixERConfig",
    "MixERError",
    "Modality",
    "__version__",
    "base_parameters",
    "base_state_dict",
    "check_optimizer",
    "evaluate",
    "extract_features",
    "list_adapters",
    "load_base_state_dict",
    "mixer_features",
    "mixer_loss",
    "mixer_param_groups",
    "mixer_parameters",
    "mixer_state_dict",
    "register_adapter",
    "scores",
    "unwrap_mixer",
    "wrap_with_mixer",
]
