"""A protocol: gallery, queries, removals and counting of ranks, and its contract in words.

This class is the protocol ``full``; those of the data sets change what differs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError, check_name
from mixer_plugin.evaluation.settings import (
    SETTINGS,
    Groups,
    SameCamera,
    SettingMask,
    check_settings,
    query_sides,
    view,
)
from mixer_plugin.features import FeatureSet, Modality
from mixer_plugin.releases import Cameras, Counts

TRIALS, _MOST_TRIALS = 10, 1000  # all draws are held at a time
CMC = Literal["dedup", "standard"]
NoPositive = Literal["drop", "error"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """An evaluation protocol; ``str()`` and ``describe`` print its contract.

    Attributes:
        id: Its name, as ``get_protocol`` takes it.
        cmc: ``dedup`` (each identity counts once, at its best rank: SYSU-MM01's definition) or
            ``standard`` (every gallery item counts).
        same_camera: What ``cross`` and ``uni`` remove of the query's own camera: ``any-id`` (every
            image), ``same-id`` (images of the query's identity) or ``keep`` (nothing);
            ``mixer_plugin.evaluation.settings.view`` has the fine print.
        no_positive: ``drop``: queries without a positive are left out of the means, and counted;
            ``error``: such a query is an error.
        colocated: Pairs of cameras that look at one place; (c, c) where both modalities' camera c
            are one.
        colocated_mixed: Whether ``mix-cam`` and ``mix-cam-id`` count a co-located camera as the
            query's own.
        settings: The settings that have a meaning for its images; ``evaluate`` takes all of them
            unless told otherwise.
        query: Modality of the queries unless told otherwise: ``infrared``, ``visible`` or ``both``.

    Raises:
        MixERValueError: An option is none of those named.
    """

    id: str
    cmc: CMC = "standard"
    same_camera: SameCamera = "any-id"
    no_positive: NoPositive = "drop"
    colocated: tuple[tuple[int, int], ...] = ()
    colocated_mixed: bool = False
    settings: tuple[str, ...] = SETTINGS
    query: str = "infrared"

    def __post_init__(self) -> None:
        kinds = {"cmc": CMC, "same_camera": SameCamera, "no_positive": NoPositive}
        for name, kind in kinds.items():
            given, options = getattr(self, name), get_args(kind)
            check_name(name, given, options)
        check_settings(self.settings)
        query_sides(self.query)

    def __str__(self) -> str:
        return self.describe()

    def draws(self, features: FeatureSet, trials: int | None = None) -> list[NDArray[np.int64]]:
        """Draws the gallery of every trial, of both modalities.

        Args:
            features: The images.
            trials: How many trials; None: 10, or the one there is where nothing is drawn.

        Returns:
            Per trial int64 [gallery], sorted rows of ``features``.

        Raises:
            MixERValueError: The features do not fit the protocol, or so many trials are not there.
            MixERError: No permutation is given and none is found beside the images.
        """
        return self._draw(features, self.count_trials(trials))

    def count_trials(self, trials: int | None) -> int:
        """Number of trials if ``trials`` are asked for; None: the protocol's own number.

        Raises:
            MixERValueError: So many are not there.
        """
        count = self._trials() if trials is None else trials
        if type(count) is bool or not (isinstance(count, int) and 1 <= count <= _MOST_TRIALS):
            raise MixERValueError(
                f"trials must be a whole number, at least 1 and at most {_MOST_TRIALS}, got "
                f"{trials!r}."
            )
        if self._trials() == 1 and count != 1:
            raise MixERValueError(
                f"Protocol {self.id!r} draws nothing, so it has one trial; got trials={trials}."
            )
        return count

    def queries(self, features: FeatureSet, modality: int) -> NDArray[np.int64]:
        """Int64 [queries], the sorted rows of the queries of a modality: never an unknown person.

        An identity below 0 says that the person is unknown: not that two such images show one.
        """
        rows = self._queries(features, modality)
        return rows[features.ids.cpu().numpy()[rows] >= 0]

    def views(self, settings: Sequence[str], groups: Groups) -> list[SettingMask]:
        """The listed and the counted groups of each setting, for the groups of a feature set."""
        return [
            view(name, groups, self.colocated, self.colocated_mixed, self.same_camera)
            for name in settings
        ]

    def check(
        self, features: FeatureSet, *, settings: Collection[str] = (), query: str | None = None
    ) -> None:
        """Checks that features and arguments fit the protocol.

        Args:
            features: The images.
            settings: Settings to evaluate.
            query: ``infrared``, ``visible`` or ``both``; None: the protocol's own.

        Raises:
            MixERValueError: They do not fit.
        """
        self._check(features, settings, query or self.query)

    def describe(self, features: FeatureSet | None = None, trials: int | None = None) -> str:
        """The contract in words; with features, their numbers, and where the release differs.

        Args:
            features: The images.
            trials: How many are evaluated; None: the protocol's own number.
        """
        words = self._words()
        lines = {
            "protocol": self.id,
            **{what: words[what] for what in ("queries", "gallery", "draws")},
            "trials": str(self._trials() if trials is None else trials),
            "exclusions": "the query itself, by its row; what the setting removes",
            "same camera": self._own_camera(),
            "co-located": words["co-located"],
            "cmc": {
                "dedup": "dedup: each other identity counts once, at its best rank (SYSU-MM01's "
                "definition)",
                "standard": "standard: every gallery item counts",
            }[self.cmc],
            "mAP, mINP": "of the list as it is, every item counts",
            "dropped": {
                "drop": "queries without a positive are left out of all means and counted",
                "error": "none: a query without a positive is an error",
            }[self.no_positive],
            "ties": "equal scores rank by the row order of the features; mAP is also given with "
            "all ties for and against the query",
        }
        if features is not None:
            infrared = len(self.queries(features, Modality.INFRARED))
            visible = len(self.queries(features, Modality.VISIBLE))
            ids = features.ids
            identities = len(set(ids[ids >= 0].tolist()))
            lines["queries"] += (
                f" ({infrared} infrared, {visible} visible; {identities} identities in all)"
            )
            unknown, zero = int((ids < 0).sum()), int((ids == 0).sum())
            if unknown:
                lines["unknown"] = (
                    f"{unknown} images of unknown persons (identity below 0): no query, no "
                    "positive, each another identity"
                )
            if zero and self._zero_is_person():
                lines["identity 0"] = (
                    f"{zero} images, taken as one person; number unknown persons below 0"
                )
            other = [
                f"{found} {what} ({released})"
                for what, (found, released) in self.counts(features).items()
                if found != released
            ]
            if other:
                lines["note"] = f"counts differ from the release: {', '.join(other)}"
        return "\n".join(f"{name:<12}{text}" for name, text in lines.items())

    def counts(self, features: FeatureSet) -> Counts:
        """Counts by name: in these features and in the released test set."""
        return {}

    # What data sets change.

    def _zero_is_person(self) -> bool:
        """Whether identity 0 is one like any other."""
        return True

    def _queries(self, features: FeatureSet, modality: int) -> NDArray[np.int64]:
        """What ``queries`` returns, unknown persons included."""
        return np.flatnonzero(features.modality.cpu().numpy() == modality)

    def _check(self, features: FeatureSet, settings: Collection[str], query: str) -> None:
        """Raises what ``check`` raises."""

    def _trials(self) -> int:
        """The default number of trials; 1 where nothing is drawn."""
        return 1

    def _draw(self, features: FeatureSet, trials: int) -> list[NDArray[np.int64]]:
        return [np.arange(len(features), dtype=np.int64)] * trials

    def _words(self) -> dict[str, str]:
        """What the contract says of queries, gallery, draws and co-located cameras."""
        pairs = ", ".join(f"{a} and {b}" for a, b in self.colocated)
        kind = "the query's own camera" if self.colocated_mixed else "another camera"
        return {
            "queries": "every image of the query modality",
            "gallery": "every image; the query's modality, the other or both, as the setting says",
            "draws": "none",
            "co-located": f"cameras {pairs}; in mix-cam and mix-cam-id one counts as {kind}"
            if pairs
            else "no camera with another",
        }

    def _own_camera(self) -> str:
        if self.same_camera == "keep":
            return "keep: cross and uni remove none of the query's camera"
        several = "where its modality has several cameras"
        if self.same_camera == "same-id":
            place = " (cross: or of one co-located with it)" if self.colocated else ""
            return (
                "same-id: cross and uni remove the query's identity in the query's camera"
                f"{place}; uni only {several}"
            )
        place = "every image of a camera co-located with the query's" if self.colocated else "none"
        return f"any-id: cross removes {place}, uni every image of the query's camera, {several}"


def check_cameras(id: str, features: FeatureSet, cameras: Cameras) -> None:
    """Raises ``MixERValueError`` for features of a camera that the data set does not have."""
    pairs = set(zip(features.cams.tolist(), features.modality.tolist(), strict=True))
    for camera, modality in sorted(pairs):
        if camera not in cameras[modality]:
            visible, infrared = (", ".join(map(str, side)) for side in cameras)
            raise MixERValueError(
                f"Protocol {id!r} expects cameras {visible} visible and {infrared} infrared; "
                f"the features have camera {camera} {Modality(modality).name.lower()}. "
                "Use protocol 'full' for other data sets."
            )
