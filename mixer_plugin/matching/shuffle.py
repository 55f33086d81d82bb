"""The control with shuffled related features, for what is scored piece by piece."""

from __future__ import annotations

from dataclasses import replace

from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.normalized import shuffle_within
from mixer_plugin.matching.rules import RULES, check_rules


def deal_out(features: FeatureSet, rule: str) -> tuple[FeatureSet, str]:
    """Features and a rule with which ``scores`` gives what ``evaluate`` gives under this rule.

    ``evaluate`` deals out the related features of all images once; ``scores`` would deal out
    queries and gallery each by itself, and anew for every block of queries.

    Args:
        features: All images.
        rule: Rule of ``scores``.

    Returns:
        Both as they are, unless the rule is a shuffled one and there are related features: then
        with the related features dealt out, and the rule that shuffles nothing.

    Raises:
        MixERValueError: An unknown rule.
    """
    chosen = check_rules([rule])[rule]
    if not chosen.shuffled or features.related is None:
        return features, rule
    plain = replace(chosen, shuffled=False)
    name = next(name for name, known in RULES.items() if known == plain)
    return replace(features, related=features.related[shuffle_within(features.modality)]), name
