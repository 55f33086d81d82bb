"""Figures to what a training logs with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mixer_plugin.errors import MixERTypeError

Log = Callable[[Mapping[str, float], int], Any]


def log_to(target: Any) -> Log:
    """A function ``log(figures, step)`` for a logger.

    Args:
        target: a ``SummaryWriter`` of TensorBoard; a run of W&B (``wandb.init(…)``); the module
            ``mlflow`` or an ``MlflowClient``-like object with ``log_metrics(figures, step=…)``; or
            a function of figures and step.

    Raises:
        MixERTypeError: for anything else.
    """
    if hasattr(target, "add_scalar"):

        def to_writer(figures: Mapping[str, float], step: int) -> None:
            for name, value in figures.items():
                target.add_scalar(name, value, step)

        return to_writer
    if hasattr(target, "log_metrics"):
        return lambda figures, step: target.log_metrics(dict(figures), step=step)
    if hasattr(target, "log"):
        return lambda figures, step: target.log(dict(figures), step=step)
    if callable(target):
        return target
    raise MixERTypeError(
        f"{type(target).__name__} is no logger; expected a SummaryWriter, a run of W&B, the module "
        "mlflow, or a function log(figures, step)."
    )
