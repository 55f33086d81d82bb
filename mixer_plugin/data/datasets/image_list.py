"""A list of images with identity, camera and modality, as every reader returns it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.whole_number import whole_numbers


@dataclass(frozen=True)
class ImageList:
    """Images on disk and what is known of them; row i of every field belongs to image i.

    Attributes:
        root: Folder of the data set.
        paths: Absolute paths of the n images.
        ids: int64 [n], identities as the data set numbers them.
        cams: int64 [n], cameras as the data set numbers them.
        modality: int64 [n], 0 visible, 1 infrared.

    Raises:
        MixERTypeError: ``ids``, ``cams`` or ``modality`` are not numbers.
        MixERValueError: The fields differ in length, a number is not whole, or a modality is
            neither 0 nor 1.

    Example:
        >>> images = ImageList("/data", ("/data/a.jpg", "/data/b.jpg"), [7, 9], [1, 3], [0, 1])
        >>> images.labels()
        (array([0, 1]), 2)
        >>> len(images.select([False, True]))
        1
    """

    root: Path
    paths: tuple[str, ...]
    ids: NDArray[np.int64]
    cams: NDArray[np.int64]
    modality: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("ids", "cams", "modality"):
            value = whole_numbers(getattr(self, name), name)
            if value.shape != (len(self.paths),):
                raise MixERValueError(
                    f"{name} must have one entry per path, shape ({len(self.paths)},); "
                    f"got shape {value.shape}."
                )
            object.__setattr__(self, name, value)
        if not np.isin(self.modality, (0, 1)).all():
            wrong = sorted(set(self.modality.tolist()) - {0, 1})
            raise MixERValueError(f"modality must be 0 (visible) or 1 (infrared), got {wrong}.")

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, rows: ArrayLike) -> ImageList:
        """A list of some of the images.

        Args:
            rows: Boolean mask [n] or integer indices [m].

        Returns:
            The chosen images, in the order of the indices.

        Raises:
            MixERTypeError: ``rows`` are not numbers.
            MixERValueError: A mask of the wrong length, or an index that is not whole or out of
                range.
        """
        index = np.asarray(rows)
        if index.dtype == np.bool_:
            if index.shape != (len(self),):
                raise MixERValueError(
                    f"The mask must have shape ({len(self)},), got {index.shape}."
                )
            index = np.flatnonzero(index)
        index = whole_numbers(index, "rows").reshape(-1)
        if len(index) and (index.min() < -len(self) or index.max() >= len(self)):
            raise MixERValueError(
                f"Indices must be in [{-len(self)}, {len(self)}), "
                f"got {index.min()} to {index.max()}."
            )
        columns = (column[index] for column in (self.ids, self.cams, self.modality))
        return ImageList(self.root, tuple(self.paths[i] for i in index), *columns)

    def labels(self) -> tuple[NDArray[np.int64], int]:
        """Class labels for training.

        Returns:
            int64 [n] of 0-based labels, numbered by ascending identity, and their number.
        """
        known, labels = np.unique(self.ids, return_inverse=True)
        return labels.astype(np.int64).reshape(-1), len(known)
