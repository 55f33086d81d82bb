"""SYSU-MM01: a gallery of one or ten images per identity and camera, ten times drawn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERError
from mixer_plugin.evaluation.protocols.base import CMC, TRIALS, Protocol, check_cameras
from mixer_plugin.evaluation.protocols.gallery_draws import (
    Permutation,
    official_draw,
    read_permutation,
    ye_draw,
)
from mixer_plugin.features import FeatureSet
from mixer_plugin.releases import SYSU, SYSU_INDOOR, Cameras, Counts, count_sysu

SEARCHES: dict[str, Cameras] = {"all": SYSU.cameras, "indoor": SYSU_INDOOR}
SHOTS = {"single": 1, "multi": 10}


@dataclass(frozen=True, kw_only=True)
class SysuProtocol(Protocol):
    """SYSU-MM01's protocols (github.com/wuancong/SYSU-MM01, ``evaluation``).

    Attributes:
        draw: ``official`` (permutation file) or ``ye`` (seeded draw of public training scripts).
        cameras: Gallery cameras, visible and infrared.
        shots: Images per identity and gallery camera.
        permutation: The official draws; None: read from beside the images when needed.
    """

    draw: Literal["official", "ye"]
    cameras: Cameras
    shots: int
    cmc: CMC = "dedup"
    colocated: tuple[tuple[int, int], ...] = ((2, 3),)
    permutation: Permutation | None = field(default=None, repr=False, compare=False)

    def _check(self, features: FeatureSet, settings: Collection[str], query: str) -> None:
        check_cameras(self.id, features, SYSU.cameras)

    def _trials(self) -> int:
        return TRIALS

    def _draw(self, features: FeatureSet, trials: int) -> list[NDArray[np.int64]]:
        self.check(features)
        if self.draw == "ye":
            return ye_draw(features, self.cameras, trials)
        permutation = self.permutation
        if permutation is None:
            permutation = read_permutation(_find_permutation(features, self.id))
        both = (*self.cameras[0], *self.cameras[1])
        return official_draw(features, permutation, both, self.shots, trials)

    def _words(self) -> dict[str, str]:
        visible, infrared = (", ".join(map(str, side)) for side in self.cameras)
        draws = {
            "official": "the official permutation rand_perm_cam.mat",
            "ye": "random.seed(trial) and random.choice per identity and camera "
            "(public scripts of AGW, DDAG, DEEN; the infrared side, seeded alike, is ours)",
        }
        return super()._words() | {
            "gallery": f"up to {self.shots} image(s) per identity and camera; visible cameras "
            f"{visible}, infrared cameras {infrared}; one side or both, as the setting says",
            "draws": draws[self.draw],
        }

    def counts(self, features: FeatureSet) -> Counts:
        """As ``Protocol.counts``."""
        return count_sysu(features.ids.tolist(), features.cams.tolist())


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
