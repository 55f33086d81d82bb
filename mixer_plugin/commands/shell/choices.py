"""The names that arguments take, for completion: parsers leave them to the commands' own checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from mixer_plugin.benchmarks.bench import NAMES
from mixer_plugin.commands.attach.names import adapters, baselines, configs, protocols
from mixer_plugin.data.datasets.layouts import LAYOUTS
from mixer_plugin.evaluation.protocols.base import CMC, NoPositive
from mixer_plugin.evaluation.settings import SETTINGS, SameCamera
from mixer_plugin.features.precision import PRECISIONS
from mixer_plugin.matching import CALIBRATIONS, RULES

_DATASETS = ("sysu", "regdb", "llcm")


def known_names() -> dict[str, Sequence[str]]:
    """Option, or name of a positional argument → what it may be."""
    return {
        "--adapter": list(adapters()),
        "--calibration": ["none", *CALIBRATIONS],
        "--cmc": get_args(CMC),
        "--config": list(configs()),
        "--dataset": _DATASETS,
        "--device": ("cpu", "cuda"),
        "--layout": list(LAYOUTS),
        "--modality": ("visible", "infrared", "auto"),
        "--network": list(baselines()),
        "--no-positive": get_args(NoPositive),
        "--precision": ("fp32", "bf16", "fp16", *PRECISIONS),
        "--protocol": [*protocols(), "regdb"],
        "--rerank": ("k-reciprocal", "k-reciprocal@queries", "aim", "bridge"),
        "--rule": list(RULES),
        "--rules": list(RULES),
        "--same-camera": get_args(SameCamera),
        "--scale": ("mini", "full"),
        "--settings": SETTINGS,
        "--shard": ("auto", "rows", "gallery"),
        "--split": ("train", "val", "test"),
        "name": NAMES,
    }
