"""Evaluation in the middle of a training, which it leaves as it was."""

from __future__ import annotations

from mixer_plugin.training.best import best_so_far, keep_best
from mixer_plugin.training.evaluation import evaluate_in_training
from mixer_plugin.training.log import log_to

__all__ = ["best_so_far", "evaluate_in_training", "keep_best", "log_to"]
