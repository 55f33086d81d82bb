"""The images of an index: labels, paths, and the (modality, camera) group of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.evaluation.settings import Groups, find_groups
from mixer_plugin.io.folder import path_key

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """What is known of every image ever added; row i is key i.

    Attributes:
        ids: int64 [T].
        cams: int64 [T].
        modality: int64 [T].
        alive: bool [T], False once removed.
        paths: T strings, or None.
        path_keys: T strings that are equal where paths are of one image; empty without paths.
        groups: The groups of modality and camera, found when images are added.
    """

    ids: Labels
    cams: Labels
    modality: Labels
    alive: NDArray[np.bool_]
    paths: tuple[str, ...] | None
    path_keys: tuple[str, ...]
    groups: Groups

    def extended(
        self, ids: Labels, cams: Labels, modality: Labels, paths: Sequence[str] | None
    ) -> Images:
        """The table with N more images: labels int64 [N] each.

        Raises:
            MixERValueError: Only the old or only the new images have paths, or a new image is
                there already, by its path, and not removed.
        """
        if len(self.ids) and (self.paths is None) != (paths is None):
            raise MixERValueError(
                f"The gallery has {'no ' if self.paths is None else ''}paths, the new images "
                f"have {'none' if paths is None else 'some'}; give both or neither."
            )
        added = {path_key(path): path for path in paths or ()}
        for key, name in enumerate(self.path_keys):
            if name in added and self.alive[key]:
                raise MixERValueError(
                    f"{added[name]!r} is in the index already, under key {key}; an image counts "
                    "once in a gallery. Leave it out, or remove that key first."
                )
        groups, known, new = merge_groups(self.groups, modality, cams)
        of_row = np.concatenate([known[self.groups.of_row], new])
        return Images(
            ids=np.concatenate([self.ids, ids]),
            cams=np.concatenate([self.cams, cams]),
            modality=np.concatenate([self.modality, modality]),
            alive=np.concatenate([self.alive, np.ones(len(ids), dtype=bool)]),
            paths=None if paths is None else (self.paths or ()) + tuple(paths),
            path_keys=self.path_keys + tuple(map(path_key, paths or ())),
            groups=Groups(groups.modality, groups.camera, of_row),
        )


_NONE = np.empty(0, dtype=np.int64)
NO_IMAGES = Images(_NONE, _NONE, _NONE, _NONE.astype(bool), None, (), Groups(_NONE, _NONE, _NONE))


def merge_groups(
    known: Groups, modality: Labels, cams: Labels
) -> tuple[Groups, NDArray[np.int64], NDArray[np.int64]]:
    """Adds the groups of N rows, modality and cams int64 [N], to K known groups.

    Returns:
        All groups (ignore their ``of_row``), the number among them of each known group int64 [K],
        and that of each row's group int64 [N].
    """
    # Only the distinct pairs of N go to find_groups: to sort pairs is slow.
    cameras = np.unique(cams)
    numbers = 2 * np.searchsorted(cameras, cams) + modality
    pairs = np.unique(numbers)
    groups = find_groups(
        np.concatenate([known.modality, pairs % 2]),
        np.concatenate([known.camera, cameras[pairs // 2]]),
    )
    moved, added = np.split(groups.of_row, [len(known.modality)])
    return groups, moved, added[np.searchsorted(pairs, numbers)]
