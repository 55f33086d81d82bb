"""The score of a pair of images (MixER, sec. 3.3)."""

from __future__ import annotations

from mixer_plugin.matching.rules import RULES, Rule
from mixer_plugin.matching.scores import CALIBRATIONS, scores

__all__ = ["CALIBRATIONS", "RULES", "Rule", "scores"]
