"""Rules of matching: how much the erased and the related cosine count, by kind of pair.

A rule is two weights for each kind of pair: both visible, both infrared, across.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mixer_plugin.errors import MixERValueError, closest
from mixer_plugin.features import Modality


@dataclass(frozen=True)
class Rule:
    """How the cosines of the erased and the related features make a score.

    Attributes:
        visible: Weights (erased, related) for two visible images.
        infrared: The same for two infrared images.
        across: The same for a visible and an infrared image.
        shuffled: Whether the related features are first dealt out anew within each modality.
        standardised: Whether each cosine is first standardised by those of both images with the
            gallery (``mixer_plugin.matching.score_norm``).
    """

    visible: tuple[float, float]
    infrared: tuple[float, float]
    across: tuple[float, float]
    shuffled: bool = False
    standardised: bool = False

    def weights(self, query: int, gallery: int) -> tuple[float, float]:
        """Weights (erased, related) for a query and a gallery item of these modalities."""
        if query != gallery:
            return self.across
        return self.infrared if query == Modality.INFRARED else self.visible

    @property
    def needs_related(self) -> bool:
        """Whether any pair uses the related feature."""
        return any(related for _, related in (self.visible, self.infrared, self.across))


_ERASED, _RELATED, _FUSED = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)
RULES: dict[str, Rule] = {
    # The paper's rule. The cosine of two concatenations of L2-normalised halves is the mean of the
    # two cosines.
    "mixer": Rule(_FUSED, _FUSED, _ERASED),
    # The same with every cosine on one scale: those of the two features, within a modality and
    # across, have other means and spreads, and in a mixed gallery the larger ones win.
    "mixer-calibrated": Rule(_FUSED, _FUSED, _ERASED, standardised=True),
    "erased": Rule(_ERASED, _ERASED, _ERASED),
    # What a gain of `mixer-calibrated` has to be compared with: the same calibration alone.
    "erased-calibrated": Rule(_ERASED, _ERASED, _ERASED, standardised=True),
    "related": Rule(_RELATED, _RELATED, _RELATED),
    # The two mixed-gallery scores of the authors' development code (github.com/alehdaghi/
    # ContPartReid, branch Vis_Inf): the related feature counts between infrared images only,
    # added to or in place of the erased one.
    "dev-sum": Rule(_ERASED, (1.0, 0.7), _ERASED),
    "dev-switch": Rule(_ERASED, (0.0, 0.7), _ERASED),
    # Control: related features that say nothing about identity. What `mixer` gains over `erased`
    # and this rule gains too is calibration between same- and cross-modality pairs.
    "mixer-shuffled": Rule(_FUSED, _FUSED, _ERASED, shuffled=True),
}


def check_rules(names: Collection[str]) -> dict[str, Rule]:
    """The rules of these names, or an error that names the closest ones."""
    for name in names:
        if name not in RULES:
            raise MixERValueError(f"Unknown rule {name!r}.{closest(name, RULES)}")
    return {name: RULES[name] for name in names}
