"""Which images a synthetic data set has: one row of a table for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.data.synthetic.config import SyntheticConfig

SPLITS = ("train", "val", "test")
VISIBLE_CAMERAS = (1, 2, 4, 5)
INFRARED_CAMERAS = (3, 6)

View = tuple[int, bool, int]
"""A camera, whether its images are infrared, and how many it takes of each identity."""

_NAMES = ["split", "index", "pid", "cam", "infrared", "number"]
_ROW = np.dtype({"names": _NAMES, "formats": ["U7", "i8", "i8", "i8", "?", "i8"]})


def plan(config: SyntheticConfig) -> NDArray[np.void]:
    """Lists all images of a data set with the cameras of SYSU-MM01.

    Args:
        config: The data set.

    Returns:
        Structured array with the fields ``split`` (train, val or test), ``index`` (of the identity
        within its split, 0-based), ``pid`` (1-based over all splits), ``cam`` (1 to 6),
        ``infrared`` and ``number`` (of the image within identity, camera and modality, 1-based);
        sorted by split, identity, camera and number. Rows can be selected as those of any array:
        ``rows[rows["split"] == "test"]``.
    """
    kinds = [(cam, cam in INFRARED_CAMERAS) for cam in sorted(VISIBLE_CAMERAS + INFRARED_CAMERAS)]

    def views(split: str) -> list[View]:
        return [(cam, dark, per_camera(config, split, dark)) for cam, dark in kinds]

    return list_persons(config, views)


def list_persons(
    config: SyntheticConfig, views: Callable[[str], Sequence[View]]
) -> NDArray[np.void]:
    """Rows as those of ``plan``, by split, identity and view; ``views`` says what a split has."""
    parts = []
    first = 1
    for split in SPLITS:
        taken = views(split)
        counts = [count for _, _, count in taken]
        ids = getattr(config, f"{split}_ids")
        rows = np.empty(ids * sum(counts), dtype=_ROW)
        rows["split"] = split
        rows["index"] = np.repeat(np.arange(ids), sum(counts))
        rows["pid"] = first + rows["index"]
        rows["cam"] = np.tile(np.repeat([cam for cam, _, _ in taken], counts), ids)
        rows["infrared"] = np.tile(np.repeat([dark for _, dark, _ in taken], counts), ids)
        numbers = [np.arange(1, count + 1) for count in counts]
        rows["number"] = np.tile(np.concatenate(numbers), ids)
        parts.append(rows)
        first += ids
    return np.concatenate(parts)


def list_strangers(kind: str, pid: int, count: int, cameras: int) -> NDArray[np.void]:
    """Rows as those of ``plan``, of one visible image each of persons that are in no split.

    Args:
        kind: ``extra`` or ``junk``: other persons each.
        pid: Identity that all bear in the data set.
        count: Number of persons and images.
        cameras: They are spread over the cameras 1 to this.
    """
    rows = np.empty(count, dtype=_ROW)
    rows["split"], rows["pid"], rows["infrared"], rows["number"] = kind, pid, False, 1
    rows["index"] = np.arange(count)
    rows["cam"] = rows["index"] % cameras + 1
    return rows


def per_camera(config: SyntheticConfig, split: str, infrared: bool) -> int:
    """Images of each identity of a split in each camera of a modality."""
    kind = "infrared" if infrared else "visible"
    value: int = getattr(config, f"{'' if split == 'train' else 'test_'}{kind}_per_camera")
    return value
