"""Rules of matching: how much the erased and the related cosine count, by kind of pair.

A rule is a weight for each feature and kind of pair: both visible, both infrared, across.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mixer_plugin.errors import check_name
from mixer_plugin.features import Modality

System = tuple[str, str | None]  # names of a rule and a calibration
SOURCES = ("erased", "related", "shuffled")  # the last: ``matching.shuffle`` of the related ones


def system_name(system: System) -> str:
    """``mixer``, or ``mixer, znorm``."""
    return ", ".join(filter(None, system))


@dataclass(frozen=True)
class Rule:
    """How the cosines of the features of a pair make a score.

    Attributes:
        visible: Weights for two visible images, by place in ``SOURCES``; those left out are 0.
        infrared: The same for two infrared images.
        across: The same for a visible and an infrared image.
        standardised: Whether each cosine is first standardised by those of both images with the
            gallery (``mixer_plugin.matching.score_norm``), and features and pairs across then
            weighed by how much they are worth (``mixer_plugin.matching.lift``).

    Example:
        >>> from mixer_plugin.matching import RULES
        >>> RULES["mixer"].weights(1, 1), RULES["mixer"].weights(1, 0)  # (erased, related)
        ((0.5, 0.5), (1.0, 0.0))
    """

    visible: tuple[float, ...]
    infrared: tuple[float, ...]
    across: tuple[float, ...]
    standardised: bool = False

    def weights(self, query: int, gallery: int) -> tuple[float, ...]:
        """Weights for a query and a gallery item of these modalities."""
        if query != gallery:
            return self.across
        return self.infrared if query == Modality.INFRARED else self.visible

    @property
    def sources(self) -> set[str]:
        """The features that count for some pair."""
        kinds = (self.visible, self.infrared, self.across)
        return {SOURCES[i] for kind in kinds for i, weight in enumerate(kind) if weight}

    @property
    def needs_related(self) -> bool:
        """Whether any pair uses the related feature, shuffled or not."""
        return self.sources != {"erased"}


_ERASED, _RELATED, _FUSED, _SHUFFLED = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.5, 0.0, 0.5)
RULES: dict[str, Rule] = {
    # The paper's rule. The cosine of two concatenations of L2-normalised halves is the mean of the
    # two cosines.
    "mixer": Rule(_FUSED, _FUSED, _ERASED),
    # The same with every cosine on one scale: those of the two features, within a modality and
    # across, have other means and spreads, and in a mixed gallery the larger ones win.
    "mixer-calibrated": Rule(_FUSED, _FUSED, _ERASED, standardised=True),
    # The fused cosine for every pair. For a head that both modalities share: the related features
    # of heads of their own lie apart, unless ordinary labels brought them together.
    "fused": Rule(_FUSED, _FUSED, _FUSED),
    "fused-calibrated": Rule(_FUSED, _FUSED, _FUSED, standardised=True),
    "erased": Rule(_ERASED, _ERASED, _ERASED),
    # What a gain of `mixer-calibrated` has to be compared with: the same calibration alone.
    "erased-calibrated": Rule(_ERASED, _ERASED, _ERASED, standardised=True),
    "related": Rule(_RELATED, _RELATED, _RELATED),
    # A feature for each kind of pair: of networks that were trained apart (the upper bound of the
    # paper's Table B.3), the related half is that of the item's own modality.
    "routed": Rule(_RELATED, _RELATED, _ERASED),
    # The two mixed-gallery scores of the authors' development code (github.com/alehdaghi/
    # ContPartReid, branch Vis_Inf): the related feature counts between infrared images only,
    # added to or in place of the erased one.
    "dev-sum": Rule(_ERASED, (1.0, 0.7), _ERASED),
    "dev-switch": Rule(_ERASED, (0.0, 0.7), _ERASED),
    # Control: related features that say nothing about identity. What `mixer` gains over `erased`
    # and this rule gains too is calibration between same- and cross-modality pairs.
    "mixer-shuffled": Rule(_SHUFFLED, _SHUFFLED, _ERASED),
}


def check_rules(names: Collection[str]) -> dict[str, Rule]:
    """The rules of these names, or an error that names the closest ones."""
    for name in names:
        check_name("rule", name, RULES)
    return {name: RULES[name] for name in names}
