"""Features of a set of images: extraction writes them, matching and evaluation read them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.features import files
from mixer_plugin.features.precision import stored_as
from mixer_plugin.features.validation import (
    check_distinct,
    feature_matrix,
    label_vector,
    modality_vector,
    named,
    path_tuple,
)

_FEATURES = {"erased", "related"}


@dataclass(frozen=True, eq=False, repr=False)
class FeatureSet:
    """Features of N images with their labels; row i of every field belongs to image i.

    Every field may be given as a tensor, an array or a list; it is copied, so that later changes
    by the caller change nothing here.

    Attributes:
        erased: float32 [N, De], modality-erased features (a base model's own embedding).
        related: float32 [N, Dr], modality-related features, or None where a model has none.
        ids: int64 [N], identities; one identity has one number in both modalities.
        cams: int64 [N], cameras.
        modality: int64 [N], 0 visible, 1 infrared (``Modality``).
        paths: Image paths, N strings, or None. Protocols that draw a gallery by file name need
            them. Rows may repeat an image, as resampling does; ``save``, ``evaluate`` and an index
            refuse one that is there twice.
        reduction: Fingerprint of the reduction that made the features (``mixer_plugin.search.
            reduction``), None: as the network gave them. Other reductions have other axes: sets
            are joined, and scored against each other, only where it is the same.

    Raises:
        MixERValueError: Fields differ in length or dimension, features are not finite or too small
            for float32, labels are not whole numbers, or a modality is neither 0 nor 1.
        MixERTypeError: A field is of another kind, such as labels of ``bool`` or numbers as paths.

    Example:
        >>> FeatureSet(erased=[[1.0, 0.0]], related=None, ids=[7], cams=[3], modality=[1])
        FeatureSet(1 images, erased 2, related none, 1 identities, 1 cameras, 1 infrared)
    """

    erased: Tensor
    related: Tensor | None
    ids: Tensor
    cams: Tensor
    modality: Tensor
    paths: tuple[str, ...] | None = None
    reduction: str | None = None

    if TYPE_CHECKING:  # what may be given is wider than what the fields hold

        def __init__(
            self,
            erased: Tensor | ArrayLike,
            related: Tensor | ArrayLike | None,
            ids: Tensor | ArrayLike,
            cams: Tensor | ArrayLike,
            modality: Tensor | ArrayLike,
            paths: Iterable[str] | None = None,
            reduction: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        erased = feature_matrix("erased", self.erased)
        set_field = object.__setattr__
        set_field(self, "erased", erased)
        if self.related is not None:
            set_field(self, "related", feature_matrix("related", self.related).to(erased.device))
        for name in ("ids", "cams"):
            set_field(self, name, label_vector(name, getattr(self, name)).to(erased.device))
        set_field(self, "modality", modality_vector(self.modality).to(erased.device))
        if self.paths is not None:
            set_field(self, "paths", path_tuple(self.paths))
        for name in ("related", "ids", "cams", "modality", "paths"):
            value = getattr(self, name)
            if value is not None and len(value) != len(erased):
                raise MixERValueError(
                    f"{name} has {len(value)} rows, but erased has {len(erased)}; "
                    "row i of every field must belong to image i."
                )

    def __len__(self) -> int:
        return len(self.erased)

    def __repr__(self) -> str:
        related = "none" if self.related is None else str(self.related.shape[1])
        return (
            f"FeatureSet({len(self)} images, erased {self.erased.shape[1]}, related {related}, "
            f"{len(set(self.ids.tolist()))} identities, {len(set(self.cams.tolist()))} cameras, "
            f"{int(self.modality.sum())} infrared)"
        )

    def __getitem__(self, index: slice | Tensor | np.ndarray | Sequence[int]) -> FeatureSet:
        """A set of some of the images.

        Args:
            index: A slice, int64 [M] row numbers (repetitions allowed) or a bool [N] mask.

        Returns:
            The chosen rows, in the order of the index.

        Raises:
            MixERTypeError: The index is a single number or of another kind.
            MixERValueError: A row number is out of range or a mask has another length than N.
        """
        rows = self._rows(index)
        paths = None if self.paths is None else tuple(self.paths[i] for i in rows.tolist())
        chosen = {name: None if x is None else x[rows] for name, x in self._columns().items()}
        return FeatureSet(**chosen, paths=paths, reduction=self.reduction)  # type: ignore[arg-type]

    def _columns(self) -> dict[str, Tensor | None]:
        return {name: getattr(self, name) for name in ("erased", "related", *files.LABELS)}

    def _rows(self, index: slice | Tensor | np.ndarray | Sequence[int]) -> Tensor:
        device = self.erased.device
        if isinstance(index, slice):
            return torch.arange(len(self), device=device)[index]
        if isinstance(index, str) or not isinstance(index, (Tensor, np.ndarray, Sequence)):
            raise MixERTypeError(
                f"A FeatureSet is indexed by a slice, row numbers or a mask, got {index!r}; "
                "for one image write features[i : i + 1]."
            )
        rows = torch.as_tensor(index, device=device)
        if rows.numel() == 0 and rows.dtype != torch.bool:
            rows = rows.long().reshape(-1)
        if rows.ndim != 1 or rows.dtype.is_floating_point or rows.dtype.is_complex:
            raise MixERTypeError(
                "An index must be one-dimensional, of whole numbers or bool, "
                f"got shape {tuple(rows.shape)} of {rows.dtype}."
            )
        if rows.dtype == torch.bool:
            if len(rows) != len(self):
                raise MixERValueError(
                    f"A mask must have one entry per image, {len(self)}; got {len(rows)}."
                )
            return rows.nonzero().flatten()
        rows = rows.long()
        outside = rows[(rows < -len(self)) | (rows >= len(self))]
        if len(outside):
            raise MixERValueError(f"Row {int(outside[0])} is not among the {len(self)} images.")
        return rows % max(len(self), 1)

    def to(self, device: torch.device | str) -> FeatureSet:
        """The same set with all tensors on a device."""
        return dataclasses.replace(self, erased=self.erased.to(device))  # the others follow it

    def save(self, path: str | os.PathLike[str], *, precision: str = "float32") -> None:
        """Writes an uncompressed ``.npz`` without pickled objects.

        The file is written aside and renamed: an interrupted run leaves the old file or none.

        Args:
            path: The file; its folder must be there. The name is taken as given.
            precision: Of the features in the file: ``float32``, or ``float16`` or ``int8``, a half
                or a quarter of its size (``mixer_plugin.features.precision``).

        Raises:
            MixERValueError: The folder does not exist, the precision is unknown, or ``load`` would
                refuse the file: there is no image, or one is there twice.
        """
        if not len(self):
            raise MixERValueError("There is no image (zero rows) to save.")
        check_distinct(self.paths)
        columns = {n: x for n, x in self._columns().items() if x is not None}
        for name in _FEATURES & columns.keys():
            columns[name] = stored_as(columns[name], precision)
        arrays = {n: x.cpu().numpy() for n, x in columns.items()}
        if self.paths is not None:
            arrays["paths"] = np.asarray(self.paths, dtype=np.str_)
        if self.reduction is not None:
            arrays["reduction"] = np.asarray(self.reduction, dtype=np.str_)
        files.write_npz(arrays, Path(path))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        labels: str | os.PathLike[str] | None = None,
        related: str | os.PathLike[str] | None = None,
        identities: Iterable[int] | None = None,
    ) -> FeatureSet:
        """Reads features from files, whose kind is told by their first bytes, not by their names.

        * ``.npz`` with erased, ids, cams, modality and, if known, related, paths and reduction:
          ``save``'s.
        * SYSU-MM01's per-camera ``.mat`` files, MATLAB 5 or 7.3 (a folder of them, or one), as
          ``mixer_plugin.features.sysu_mat`` describes.
        * ``.npy`` [N, De] with ``labels``, a table in the order of its rows.

        Nothing is unpickled.

        Args:
            path: The file or folder.
            labels: For ``.npy``: CSV with a header that names id, camera, modality (0 or V or
                visible or rgb …; 1 or I or infrared or thermal …) and, if known, path; in any
                order, among others.
            related: The modality-related features, in a file of the same kind (``.npy``, ``.mat``);
                an ``.npz`` holds its own.
            identities: For ``.mat``: those to keep, such as ``test_id.mat``'s; None keeps all that
                have images.

        Returns:
            The set, on the CPU.

        Raises:
            MixERValueError: There is no such file, it cannot be read, it lacks a field, fields do
                not fit together, it holds no image, or an image (path) twice.
            MixERTypeError: A field is of another kind, such as strings for features.
            MissingExtraError: A ``.mat`` needs SciPy (MATLAB 5) or h5py (7.3).
        """
        arrays, source = files.read_features(
            Path(path),
            None if labels is None else Path(labels),
            None if related is None else Path(related),
            identities,
        )
        with named(source):
            return cls(**arrays)

    @classmethod
    def concatenate(cls, sets: Sequence[FeatureSet]) -> FeatureSet:
        """Joins sets row by row, in the order given, on the first one's device.

        Args:
            sets: At least one set; all with the same feature widths and reduction, all or none
                with related features. Paths are kept when all have them.

        Returns:
            The joined set.

        Raises:
            MixERValueError: The list is empty or the sets do not fit together.
        """
        parts = list(sets)
        if not parts:
            raise MixERValueError("There is nothing to concatenate; give at least one FeatureSet.")
        widths = [
            (part.erased.shape[1], None if part.related is None else part.related.shape[1])
            for part in parts
        ]
        if len(set(widths)) > 1:
            raise MixERValueError(
                "All sets must have the same widths (erased, related); got "
                f"{', '.join(map(str, dict.fromkeys(widths)))}."
            )
        reductions = list(dict.fromkeys(part.reduction for part in parts))
        if len(reductions) > 1:
            raise MixERValueError(
                "All sets must be reduced by the same reduction, or none; got "
                f"{', '.join(str(each or 'none') for each in reductions)}. Reduce all by one file "
                "of a reduction."
            )
        device = parts[0].erased.device
        columns = [part._columns() for part in parts]
        joined = {
            name: None if first is None else torch.cat([own[name].to(device) for own in columns])  # type: ignore[union-attr]
            for name, first in columns[0].items()
        }
        named = [part.paths for part in parts if part.paths is not None]
        paths = sum(named, ()) if len(named) == len(parts) else None
        return cls(**joined, paths=paths, reduction=reductions[0])  # type: ignore[arg-type]
