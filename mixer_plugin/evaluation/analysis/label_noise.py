"""Results in mixed galleries with wrong modality labels at test time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.analysis.modality_bias import MIXED
from mixer_plugin.evaluation.analysis.ranked_lists import (
    RankedLists,
    mean_figures,
    precision_and_first,
    ranked_lists,
)
from mixer_plugin.evaluation.protocols.registry import Protocol
from mixer_plugin.evaluation.results import trial_std
from mixer_plugin.evaluation.statistics import SEED
from mixer_plugin.evaluation.tables import markdown_table, percent, to_json
from mixer_plugin.features import FeatureSet

PROBABILITIES = (0.0, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class WrongLabels:
    """mAP in one setting when modality labels are wrong with some probability.

    Attributes:
        setting: Setting.
        query: ``infrared`` or ``visible``.
        probability: Probability that an image's label is wrong in scoring.
        mAP: Mean over the draws of the wrong labels.
        mAP_std: Standard deviation over these draws (n - 1), NaN with one; not an interval.
        draws: Number of draws; one where nothing is drawn (probabilities 0 and 1).
    """

    setting: str
    query: str
    probability: float
    mAP: float
    mAP_std: float
    draws: int


@dataclass(frozen=True)
class WrongLabelReport:
    """mAP under wrong labels, one row per setting and probability."""

    rows: tuple[WrongLabels, ...]

    def to_markdown(self) -> str:
        """A Markdown table in percent: settings in rows, probabilities in columns."""
        chances = list(dict.fromkeys(row.probability for row in self.rows))
        body: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in self.rows:
            spread = "" if np.isnan(row.mAP_std) else f" ± {percent(row.mAP_std)}"
            body[row.setting, row.query].append(percent(row.mAP) + spread)
        head = ["setting", "query", *(f"{percent(chance)} % wrong" for chance in chances)]
        return markdown_table(head, [[*key, *cells] for key, cells in body.items()], labels=2)

    def to_json(self) -> str:
        """JSON in full precision; NaN becomes null."""
        return to_json([asdict(row) for row in self.rows])


def wrong_labels(
    features: FeatureSet,
    protocol: str | Protocol,
    *,
    settings: Sequence[str] = MIXED,
    query: str = "infrared",
    rule: str = "mixer",
    calibration: str | None = None,
    probabilities: Sequence[float] = PROBABILITIES,
    draws: int = 5,
    seed: int = SEED,
    trials: int | None = None,
) -> WrongLabelReport:
    """Measures mAP when scoring is given wrong modalities and so uses the wrong cosines.

    Every label, of queries and gallery, is flipped with the probability given. The features stay
    what they are, and queries, gallery, removals and positives go by the true labels. What is
    wrong at one probability is wrong at every higher one of the same draw.

    Args:
        features: Images of both modalities.
        protocol: Protocol or its id.
        settings: Settings.
        query: ``infrared`` or ``visible``.
        rule: Rule of ``scores``.
        calibration: Calibration of ``scores``.
        probabilities: Probabilities of a wrong label.
        draws: Draws of the wrong labels.
        seed: Their seed.
        trials: Number of gallery draws; None: what the protocol says.

    Returns:
        A row per setting and probability.

    Raises:
        MixERValueError: An unknown name, a probability outside [0, 1], no draw, or features that
            do not fit.
    """
    wrong = [chance for chance in probabilities if not 0 <= chance <= 1]
    if wrong or draws < 1:
        raise MixERValueError(
            f"Probabilities must lie in [0, 1] and draws be at least 1, got {list(probabilities)} "
            f"and {draws}."
        )
    true = features.modality.cpu().numpy()
    system: dict[str, Any] = {"rule": rule, "calibration": calibration, "trials": trials}
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for chance in probabilities:
        for draw in range(1 if chance in (0, 1) else draws):
            flipped = np.random.default_rng([seed, draw]).random(len(true)) < chance
            told = np.where(flipped, 1 - true, true)
            blocks = ranked_lists(
                features, protocol, settings=settings, query=query, told=told, **system
            )
            for setting, (mean,) in mean_figures(blocks, settings, _average_precision).items():
                found[setting, chance].append(float(mean))
    rows = [
        WrongLabels(setting, query, chance, float(np.mean(drawn)), trial_std(drawn), len(drawn))
        for setting in settings
        for chance in probabilities
        for drawn in [found[setting, chance]]
    ]
    return WrongLabelReport(tuple(rows))


def _average_precision(lists: RankedLists, setting: str) -> NDArray[np.float64]:
    return precision_and_first(lists.listed[setting], lists.matches[setting])[0][None]
