"""The six settings: which gallery items a query is matched with.

What a setting removes depends only on the modality and camera of the query and of the item, and on
whether they show the same identity. So each setting is two tables over the groups (modality,
camera) of a feature set: one for items of other identities, one for items of the query's own.
The query itself is always removed as well, by its row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import check_name
from mixer_plugin.features import Modality

SETTINGS = ("cross", "mix", "mix-cam", "mix-cam-id", "mix-id", "uni")
SameCamera = Literal["any-id", "same-id", "keep"]
SIDES = {"infrared": Modality.INFRARED, "visible": Modality.VISIBLE}


@dataclass(frozen=True)
class Groups:
    """The cameras of a feature set, counted apart per modality, visible ones first.

    Attributes:
        modality: int64 [K].
        camera: int64 [K].
        of_row: int64 [N], the group of each row.
    """

    modality: NDArray[np.int64]
    camera: NDArray[np.int64]
    of_row: NDArray[np.int64]


@dataclass(frozen=True)
class SettingMask:
    """One setting as tables over (group of the query, group of the gallery item).

    Attributes:
        name: The setting.
        listed: bool [K, K], whether items of another identity are in the list.
        positive: bool [K, K], whether items of the query's identity are.
        gallery: bool [K, K], which items the setting's gallery holds before anything is removed.
    """

    name: str
    listed: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    gallery: NDArray[np.bool_]


def find_groups(modality: NDArray[np.int64], cams: NDArray[np.int64]) -> Groups:
    """Groups the rows of a feature set, modality and cams int64 [N]."""
    keys, of_row = np.unique(np.stack([modality, cams]), axis=1, return_inverse=True)
    return Groups(keys[0], keys[1], of_row.reshape(-1).astype(np.int64))


def check_settings(settings: Collection[str]) -> None:
    """Raises for an unknown setting."""
    for name in settings:
        check_name("setting", name, SETTINGS)


def query_sides(query: str) -> tuple[Modality, ...]:
    """The query modalities named by ``infrared``, ``visible`` or ``both``.

    Raises:
        MixERValueError: The query has another name.
    """
    known = {name: (side,) for name, side in SIDES.items()} | {"both": tuple(SIDES.values())}
    check_name("query", query, known)
    return known[query]


def query_side(query: str) -> Modality:
    """The modality of this name; ``MixERValueError`` for another name, also for ``both``."""
    check_name("query", query, SIDES)
    return SIDES[query]


def view(
    name: str,
    groups: Groups,
    colocated: Collection[tuple[int, int]] = (),
    colocated_mixed: bool = False,
    same_camera: SameCamera = "any-id",
) -> SettingMask:
    """The tables of a setting (MixER, sec. 4: Cross, Mix, Mix-Cam, Mix-Cam-ID, Mix-ID, I-I / V-V).

    Args:
        name: One of ``SETTINGS``.
        groups: The groups of the feature set.
        colocated: Pairs of cameras that look at one place, which counts in ``cross``; (c, c) says
            that the visible and the infrared camera c are one.
        colocated_mixed: Whether ``mix-cam`` and ``mix-cam-id`` also count a co-located camera as
            the query's own.
        same_camera: What ``cross`` and ``uni`` remove of the query's own camera: ``any-id`` (every
            item: SYSU-MM01's rule), ``same-id`` (the query's identity: Market-1501's and LLCM's)
            or ``keep`` (nothing). In ``cross`` the own camera is any co-located one and, under
            ``same-id``, any of the same number; under ``any-id`` numbers that the modalities share
            by chance must not empty the list. In ``uni`` it is the camera itself, unless it is the
            modality's only one.

    Returns:
        The tables, query groups in rows.
    """
    pairs = {frozenset(pair) for pair in colocated}
    camera = groups.camera
    same_modality = groups.modality[:, None] == groups.modality
    one_number = camera[:, None] == camera
    one_place = np.array([[frozenset((a, b)) in pairs for b in camera] for a in camera.tolist()])
    one_place = one_place.reshape(len(camera), len(camera))
    every = np.ones_like(same_modality)
    if name in ("cross", "uni"):
        if name == "cross":
            gallery, own = ~same_modality, one_place
            if same_camera == "same-id":
                own = own | one_number
        else:
            # With one camera in the modality, removing the query's own would leave nothing.
            several = np.array([(groups.modality == m).sum() > 1 for m in groups.modality])
            gallery, own = same_modality, one_number & several[:, None]
        listed = gallery & ~own if same_camera == "any-id" else gallery
        positive = gallery if same_camera == "keep" else gallery & ~own
        return SettingMask(name, listed, positive, gallery)
    own = one_number | one_place if colocated_mixed else one_number
    if name == "mix-cam":
        return SettingMask(name, ~own, ~own, every)
    positive = {"mix": every, "mix-cam-id": ~own, "mix-id": ~same_modality}[name]
    return SettingMask(name, every, positive, every)
