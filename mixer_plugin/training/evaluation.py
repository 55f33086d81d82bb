"""Evaluates a model in the middle of its training, which goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from mixer_plugin.distributed.gather import count_processes
from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.evaluation import evaluate
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.settings import SETTINGS
from mixer_plugin.extraction import extract_features
from mixer_plugin.forward.mixed import bare_model, mixer_of
from mixer_plugin.heads import private_random

_METRICS = {"mAP": "mAP", "R1": "r1", "R5": "r5", "R10": "r10", "mINP": "mINP"}
_HALF = (torch.bfloat16, torch.float16)
_SEED = 0  # of what the loader draws


def evaluate_in_training(
    model: nn.Module,
    loader: Iterable[Any],
    protocol: str | Protocol = "full",
    *,
    rules: Sequence[str] = ("mixer",),
    settings: Sequence[str] | None = None,
    query: str | None = None,
    calibration: str | None = None,
    trials: int | None = None,
) -> dict[str, float]:
    """Extracts and evaluates a wrapped model between two steps, and leaves the training as it was.

    Modes of the modules, gradients, autocast, the random states (Python, NumPy, PyTorch on the CPU
    and the model's device) and what the last forward left in ``model.mixer`` are what they were:
    the training takes the same steps, bit for bit, as without. The model runs in eval mode and
    float32, without autocast, as ``extract_features`` runs it after the training; a model whose
    weights are bfloat16 or float16 runs under autocast to that dtype.

    Where ``torch.distributed`` is initialised, every process calls this with the same batches in
    the same order; they share the work and get the same figures.

    Args:
        model: wrapped by ``wrap_with_mixer``; also inside DDP or ``torch.compile``.
        loader: batches as ``extract_features`` takes them.
        protocol: this argument and those below are ``evaluate``'s.
        rules: rules to score by; the first one's figures are called ``mix/mAP``, those of another
            rule ``mix/mAP/erased``.
        settings: settings to evaluate; None: all that the protocol has.
        query: ``infrared`` or ``visible``; None: the protocol's.
        calibration: calibration of all rules, or None.
        trials: number of gallery draws; None: the protocol's.

    Returns:
        By ``setting/metric``, with the metrics mAP, R1, R5, R10 and mINP, shares in [0, 1].

    Raises:
        MixERError: as ``extract_features`` and ``evaluate``; for ``query="both"``.
    """
    if query == "both":
        raise MixERValueError(
            "query is 'both', which gives two figures for each name. Use 'infrared' or 'visible'."
        )
    mixer, bare = mixer_of(model), bare_model(model)
    left = mixer.record, mixer.terms
    first = next(bare.parameters())
    own = first.dtype if first.dtype in _HALF else None  # such a network has no float32 forward
    try:
        with (
            torch.no_grad(),
            private_random(first.device, _SEED),
            torch.autocast(first.device.type, dtype=own, enabled=own is not None),
        ):
            features = extract_features(model, loader, share=count_processes() > 1)
            options = {"query": query, "calibration": calibration, "trials": trials}
            given: dict[str, Any] = {"rules": rules, "settings": settings, **options}
            results = evaluate(features, protocol, **given)
    finally:
        mixer.record, mixer.terms = left
    return {
        name if row.rule == rules[0] else f"{name}/{row.rule}": float(getattr(row, field))
        for row in results.rows
        for metric, field in _METRICS.items()
        for name in [f"{row.setting}/{metric}"]
    }


def check_monitor(name: str, rules: Sequence[str]) -> None:
    """Raises :class:`MixERValueError` unless a figure of some setting has this name."""
    known = [f"{setting}/{metric}" for setting in SETTINGS for metric in _METRICS]
    check_name("figure", name, [*known, *(f"{k}/{rule}" for rule in rules[1:] for k in known)])
