"""Exact evaluation in cross-modal and mixed-modal galleries."""

from __future__ import annotations

from mixer_plugin.evaluation.evaluate import evaluate
from mixer_plugin.evaluation.protocols.registry import Protocol, get_protocol
from mixer_plugin.evaluation.results import ResultRow, Results
from mixer_plugin.evaluation.settings import SETTINGS

__all__ = ["SETTINGS", "Protocol", "ResultRow", "Results", "evaluate", "get_protocol"]
