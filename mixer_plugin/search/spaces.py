"""The space that features of an index lie in: their widths, and the reduction that made them."""

from __future__ import annotations

from dataclasses import dataclass

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.matching.rules import check_rules
from mixer_plugin.matching.scores import check_related


@dataclass(frozen=True)
class FeatureSpace:
    """Features are comparable where this is equal.

    Attributes:
        erased: Dimensions of the erased features.
        related: Of the related ones; None where the rule needs none.
        reduction: Fingerprint of the reduction that made them; None: there was none.
    """

    erased: int
    related: int | None
    reduction: str | None = None


def find_space(features: FeatureSet, rule: str, held: FeatureSpace | None) -> FeatureSpace:
    """The space of features.

    Args:
        features: The set.
        rule: The rule's name.
        held: The space of the index; None while it is empty.

    Raises:
        MixERValueError: The rule needs related features and there are none, or the index holds
            features of another space.
    """
    chosen = check_rules([rule])
    check_related(features, chosen)
    related = features.related if chosen[rule].needs_related else None
    widths = (features.erased.shape[1], None if related is None else related.shape[1])
    space = FeatureSpace(*widths, features.reduction)
    if held is None or held == space:
        return space
    if widths != (known := (held.erased, held.related)):
        raise MixERValueError(
            f"The index holds features of widths (erased, related) {known}, these have {widths}; "
            "both must come from the same model."
        )
    raise MixERValueError(
        f"The index holds {_reduced(held.reduction)}, these are {_reduced(space.reduction)}; "
        "other reductions have other axes. Reduce both by the same file: "
        "`mixer-plugin reduce FEATURES.npz --load REDUCTION.npz --out SMALL.npz`."
    )


def _reduced(fingerprint: str | None) -> str:
    if fingerprint is None:
        return "features that no reduction made"
    return f"features reduced by {fingerprint}"
