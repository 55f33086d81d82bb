"""Evaluation protocols: queries, galleries and trials."""

from __future__ import annotations

from mixer_plugin.evaluation.protocols.base import Protocol
from mixer_plugin.evaluation.protocols.registry import get_protocol

__all__ = ["Protocol", "get_protocol"]
