"""Protocols: who is queried, what the gallery holds, what is removed and how ranks are counted."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERError, MixERValueError, closest
from mixer_plugin.evaluation.draws import Permutation, official_draw, read_permutation, ye_draw
from mixer_plugin.features import FeatureSet, Modality

VISIBLE_CAMERAS = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
INFRARED_CAMERAS = (3, 6)
SHOTS = {"single": 1, "multi": 10}
TRIALS = 10

PROTOCOLS = (
    "full",
    *(f"sysu/{search}/{shots}" for search in VISIBLE_CAMERAS for shots in SHOTS),
    *(f"sysu/{search}/single@ye" for search in VISIBLE_CAMERAS),
)
CMC = Literal["dedup", "standard"]


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol; ``str()`` and ``describe`` print its contract.

    Attributes:
        id: Its name, as ``get_protocol`` takes it.
        draw: ``full`` (every item is in the gallery), ``official`` (permutation file) or ``ye``
            (seeded draw of the public training scripts).
        cmc: ``dedup`` (each identity counts once, at its best rank: SYSU-MM01's definition) or
            ``standard`` (every gallery item counts).
        cameras: Gallery cameras, visible and infrared; None: all there are.
        shots: Images per identity and gallery camera; None: all.
        colocated: Pairs of cameras that look at one place; ``cross`` removes them.
        colocated_mixed: Whether ``mix-cam`` and ``mix-cam-id`` count a co-located camera as the
            query's own.
        permutation: The official draws; None: read from beside the images when needed.
    """

    id: str
    draw: Literal["full", "official", "ye"]
    cmc: CMC
    cameras: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    shots: int | None = None
    colocated: tuple[tuple[int, int], ...] = ()
    colocated_mixed: bool = False
    permutation: Permutation | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.describe()

    def draws(self, features: FeatureSet, trials: int | None = None) -> list[NDArray[np.int64]]:
        """Draws the gallery of every trial, of both modalities.

        Args:
            features: The images.
            trials: How many trials; None: 10, or the one there is under ``full``.

        Returns:
            Per trial int64 [gallery], sorted rows of ``features``.

        Raises:
            MixERValueError: The features do not fit the protocol, or so many trials are not there.
            MixERError: No permutation is given and none is found beside the images.
        """
        if trials is not None and trials < 1:
            raise MixERValueError(f"trials must be at least 1, got {trials}.")
        if self.draw == "full":
            if trials not in (None, 1):
                raise MixERValueError(
                    f"Protocol {self.id!r} draws nothing, so it has one trial; got trials={trials}."
                )
            return [np.arange(len(features), dtype=np.int64)]
        assert self.cameras is not None
        assert self.shots is not None
        self._check_cameras(features)
        count = TRIALS if trials is None else trials
        if self.draw == "ye":
            return ye_draw(features, self.cameras, count)
        permutation = self.permutation
        if permutation is None:
            permutation = read_permutation(_find_permutation(features, self.id))
        both = (*self.cameras[0], *self.cameras[1])
        return official_draw(features, permutation, both, self.shots, count)

    def _check_cameras(self, features: FeatureSet) -> None:
        for cam, modality in sorted(
            set(zip(features.cams.tolist(), features.modality.tolist(), strict=True))
        ):
            expected = Modality.INFRARED if cam in INFRARED_CAMERAS else Modality.VISIBLE
            if cam not in range(1, 7) or modality != expected:
                raise MixERValueError(
                    f"Protocol {self.id!r} expects cameras 1, 2, 4, 5 visible and 3, 6 infrared; "
                    f"the features have camera {cam} {Modality(modality).name.lower()}. "
                    "Use protocol 'full' for other data sets."
                )

    def describe(self, features: FeatureSet | None = None) -> str:
        """The contract in words; with features, the numbers of queries and identities too."""
        lines = [
            f"protocol    {self.id}",
            "queries     every image of the query modality",
            f"gallery     {self._gallery()}",
            f"draws       {self._draws()}",
            f"exclusions  {self._exclusions()}",
            f"cmc         {self._cmc()}",
            "dropped     queries without a positive are left out of all means and counted",
            "ties        equal scores rank by the row order of the features; mAP is also given "
            "with all ties for and against the query",
        ]
        if features is not None:
            infrared = int((features.modality == Modality.INFRARED).sum())
            identities = len(set(features.ids.tolist()))
            lines[1] += (
                f" ({infrared} infrared, {len(features) - infrared} visible, "
                f"{identities} identities)"
            )
        return "\n".join(lines)

    def _gallery(self) -> str:
        if self.cameras is None:
            return "every image; the query's modality, the other or both, as the setting says"
        visible, infrared = (", ".join(map(str, side)) for side in self.cameras)
        return (
            f"up to {self.shots} image(s) per identity and camera; visible cameras {visible}, "
            f"infrared cameras {infrared}; one side or both, as the setting says"
        )

    def _draws(self) -> str:
        return {
            "full": "none: one trial",
            "official": f"the official permutation rand_perm_cam.mat, {TRIALS} trials",
            "ye": f"random.seed(trial) and random.choice per identity and camera, {TRIALS} trials "
            "(public scripts of AGW, DDAG, DEEN; the infrared side, seeded alike, is ours)",
        }[self.draw]

    def _exclusions(self) -> str:
        text = "the query itself, by its row; what the setting removes"
        if self.colocated:
            pairs = ", ".join(f"{a} and {b}" for a, b in self.colocated)
            also = ", in mix-cam and mix-cam-id" if self.colocated_mixed else ""
            text += f"; in cross{also} also any image of a camera co-located with it ({pairs})"
        return text

    def _cmc(self) -> str:
        if self.cmc == "dedup":
            return "each other identity counts once, at its best rank (SYSU-MM01's definition)"
        return "standard: every gallery item counts"


def get_protocol(
    id: str,
    *,
    permutation: str | os.PathLike[str] | NDArray[Any] | Permutation | None = None,
    cmc: CMC | None = None,
    colocated_mixed: bool = False,
) -> Protocol:
    """Makes a protocol.

    Args:
        id: ``full``; ``sysu/all/single``, ``sysu/all/multi``, ``sysu/indoor/single``,
            ``sysu/indoor/multi`` (official permutation); or ``sysu/all/single@ye``,
            ``sysu/indoor/single@ye`` (seeded draw of the public training scripts, which have no
            multi-shot).
        permutation: The official draws: path of ``rand_perm_cam.mat``, its content, or camera ->
            identity -> [trials, images]. None: ``exp/rand_perm_cam.mat`` of the folder that the
            features' absolute paths lie in.
        cmc: ``dedup`` or ``standard``; None: ``dedup`` for SYSU-MM01, ``standard`` for ``full``.
        colocated_mixed: Whether ``mix-cam`` and ``mix-cam-id`` treat cameras 2 and 3, which look
            at one place, as one.

    Returns:
        The protocol.

    Raises:
        MixERValueError: Unknown id or option, or an option that this protocol has no use for.
    """
    if id not in PROTOCOLS:
        raise MixERValueError(f"Unknown protocol {id!r}.{closest(id, PROTOCOLS)}")
    if cmc not in (None, "dedup", "standard"):
        raise MixERValueError(f"Unknown cmc {cmc!r}.{closest(cmc, ('dedup', 'standard'))}")
    official = id != "full" and not id.endswith("@ye")
    if permutation is not None and not official:
        raise MixERValueError(f"Protocol {id!r} uses no permutation; leave permutation=None.")
    if id == "full":
        if colocated_mixed:
            raise MixERValueError(
                "Protocol 'full' knows of no co-located cameras; leave colocated_mixed=False."
            )
        return Protocol(id="full", draw="full", cmc=cmc or "standard")
    _, search, shots = id.removesuffix("@ye").split("/")
    return Protocol(
        id=id,
        draw="official" if official else "ye",
        cmc=cmc or "dedup",
        cameras=(VISIBLE_CAMERAS[search], INFRARED_CAMERAS),
        shots=SHOTS[shots],
        colocated=((2, 3),),
        colocated_mixed=colocated_mixed,
        permutation=None if permutation is None else read_permutation(permutation),
    )


def _find_permutation(features: FeatureSet, protocol: str) -> Path:
    path = Path(features.paths[0]) if features.paths else None
    if path is not None and path.is_absolute() and len(path.parents) > 2:
        found = path.parents[2] / "exp" / "rand_perm_cam.mat"
        if found.is_file():
            return found
        where = f"{found} is not there"
    else:
        where = "the features have no absolute paths to find it by"
    raise MixERError(
        f"Protocol {protocol!r} needs the official permutation, and {where}. Pass "
        f"get_protocol({protocol!r}, permutation='.../rand_perm_cam.mat') (evaluation/data_split "
        "of github.com/wuancong/SYSU-MM01), or use a protocol with '@ye', which needs no file."
    )
