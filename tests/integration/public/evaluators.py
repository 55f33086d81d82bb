"""Loads public evaluators and states what they answer, where checkouts are at hand.

Set MIXER_CODEBASES to a folder that holds them under their repositories' names: DDAG, LLCM,
SGIEL_VIReID, MPANet, SAAI, IDKL, deep-person-reid, fast-reid.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mixer_plugin.benchmarks.speed.evaluator_peers import find_evaluator, load_evaluator

IGNITE = {
    "MPANet": "MPANet/utils",
    "SAAI": "SAAI/utils",
    "IDKL": "IDKL/IDKL/utils",
}
SCRIPT = {
    "DDAG": "DDAG/eval_metrics.py",
    "SGIEL": "SGIEL_VIReID/eval_metrics.py",
    "DEEN": "LLCM/DEEN/eval_metrics.py",
    "AGW in LLCM": "LLCM/AGW/eval_metrics.py",
}
MARKET = {
    "torchreid": "deep-person-reid/torchreid/metrics/rank.py",
    "fast-reid": "fast-reid/fastreid/evaluation/rank.py",
    "torchreid cython": "deep-person-reid/torchreid/metrics/rank_cylib/rank_cy",
    "fast-reid cython": "fast-reid/fastreid/evaluation/rank_cylib/rank_cy",
}


def evaluator(file: str) -> Any:
    """The module of a file below MIXER_CODEBASES; skips where it is absent."""
    found = find_evaluator(Path(os.environ.get("MIXER_CODEBASES", "/nowhere")) / file)
    if found is None:
        how = "" if Path(file).suffix else ", with its Cython evaluator built"
        pytest.skip(f"set MIXER_CODEBASES to a folder that holds a checkout with {file}{how}")
    return load_evaluator(found)


def on_scores(module: Any, scores: np.ndarray) -> Any:
    """Makes an ignite evaluator rank by ready scores: "features" are row numbers, [n, 1]."""

    def distance(query: torch.Tensor, gallery: torch.Tensor) -> np.ndarray:
        rows, columns = (part[:, 0].long().numpy() for part in (query, gallery))
        return -scores[np.ix_(rows, columns)]

    module.pairwise_distance = distance
    module.F = SimpleNamespace(normalize=lambda value, dim: value)
    return module


def market(module: Any, *arguments: Any, max_rank: int = 20) -> dict[str, Any]:
    """CMC, mAP and, where there is one, mINP of a Market-1501 evaluator."""
    if hasattr(module, "evaluate_cy"):
        cmc, *rest = module.evaluate_cy(*arguments, max_rank, False)
    else:
        cmc, *rest = module.eval_market1501(*arguments, max_rank)
    found = {"cmc": cmc, "mAP": np.mean(np.asarray(rest[0], dtype=np.float64))}
    if len(rest) > 1:
        found["mINP"] = np.mean(np.asarray(rest[1], dtype=np.float64))
    return found
