"""``Reduction``: PCA of each feature without whitening, fitted once and kept in a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.errors import MixERValueError, check_least
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.files import write_npz
from mixer_plugin.io.array_file import read_arrays
from mixer_plugin.matching.normalized import unit_source
from mixer_plugin.matching.rules import RULES
from mixer_plugin.search.reduction.directions import leading_directions

_BLOCK = 4096
_FORMAT = "mixer-plugin reduction 1"
_FEATURES = ("erased", "related")


@dataclass(frozen=True, eq=False)
class Projection:
    """What makes a feature shorter: ``(x / |x| - mean) @ directions``.

    Attributes:
        directions: float32 [D, d], orthonormal columns, those that keep most first.
        mean: float32 [D], of the normalised features it was fitted on; None: nothing is subtracted.
        kept: Share of the squared length of those features that is left.
    """

    directions: Tensor
    mean: Tensor | None
    kept: float

    def __call__(self, unit: Tensor) -> Tensor:
        """L2-normalised features float32 [N, D] as float32 [N, d], not normalised again."""
        directions = self.directions.to(unit.device)
        if self.mean is None:
            return unit @ directions
        return (unit - self.mean.to(unit.device)) @ directions


@dataclass(frozen=True, eq=False)
class Reduction:
    """A projection for each feature; None: that feature stays as it is.

    Scores normalise features again after it. Without a mean, the projection keeps the cosines of
    the features as well as any linear one of its width; with a mean, it keeps other cosines, those
    of the features around their mean.

    Attributes:
        erased: For the modality-erased features.
        related: For the modality-related ones.
    """

    erased: Projection | None
    related: Projection | None

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of directions and means: other reductions differ."""
        digest = hashlib.sha256(_FORMAT.encode())
        for name, value in self._arrays().items():
            digest.update(f"{name} {value.shape}".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        widths = (
            f"{name} {'as it is' if each is None else '{} to {}'.format(*each.directions.shape)}"
            for name, each in zip(_FEATURES, (self.erased, self.related), strict=True)
        )
        return f"Reduction({', '.join(widths)}, {self.fingerprint})"

    def apply(self, features: FeatureSet) -> FeatureSet:
        """The set with shorter features and the fingerprint of this reduction.

        Raises:
            MixERValueError: Features are of another width or reduced already, or the related ones
                that this reduction is for are missing.
        """
        if features.reduction is not None:
            raise MixERValueError(
                f"These features are reduced already, by {features.reduction}; reduce the ones "
                "that the network gave."
            )
        for name in _FEATURES:
            projection, given = getattr(self, name), getattr(features, name)
            width = "no" if given is None else given.shape[1]
            if projection is not None and width != len(projection.directions):
                raise MixERValueError(
                    f"The reduction is for {name} features of {len(projection.directions)} "
                    f"dimensions, the set has {width}; both must come from the same model."
                )
        parts = {}
        for name in _FEATURES:
            projection = getattr(self, name)
            parts[name] = getattr(features, name)
            if projection is not None:
                rows = torch.arange(len(features), device=features.erased.device)
                blocks = torch.split(rows, _BLOCK)
                parts[name] = torch.cat([projection(_unit(features, name, b)) for b in blocks])
        return replace(features, **parts, reduction=self.fingerprint)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an ``.npz``; an old file stays until the new one is complete.

        Raises:
            MixERValueError: The folder does not exist.
        """
        text = np.asarray([_FORMAT, self.fingerprint], dtype=np.str_)
        write_npz({"reduction": text, **self._arrays(kept=True)}, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Reduction:
        """Reads what ``save`` wrote.

        Raises:
            MixERValueError: There is no such file, it is no reduction, or it is damaged.
        """
        advice = "write it with Reduction.save or `mixer-plugin reduce --save`"
        if not Path(path).is_file():
            raise MixERValueError(f"{path} is not a file; {advice}.")
        arrays, _ = read_arrays(Path(path), advice=advice)
        words = arrays.get("reduction", np.asarray([])).tolist()
        if not isinstance(words, list) or words[:1] != [_FORMAT]:
            raise MixERValueError(f"{path} is no reduction of this version; {advice}.")
        projections: dict[str, Projection | None] = {}
        for name in _FEATURES:
            mean = arrays.get(f"{name}_mean")
            projections[name] = None
            if name in arrays:
                projections[name] = Projection(
                    torch.from_numpy(arrays[name]),
                    None if mean is None else torch.from_numpy(mean),
                    float(arrays[f"{name}_kept"]),
                )
        result = cls(**projections)
        if words[1:] != [result.fingerprint]:
            raise MixERValueError(
                f"{path} is damaged: its fingerprint is {result.fingerprint}, written was "
                f"{' '.join(words[1:]) or 'none'}; copy it anew."
            )
        return result

    def _arrays(self, *, kept: bool = False) -> dict[str, Any]:
        arrays = {}
        for name, each in zip(_FEATURES, (self.erased, self.related), strict=True):
            if each is not None:
                arrays[name] = each.directions.numpy()
                if each.mean is not None:
                    arrays[f"{name}_mean"] = each.mean.numpy()
                if kept:
                    arrays[f"{name}_kept"] = np.float64(each.kept)
        return arrays


def fit_reduction(features: FeatureSet, dim: int, *, center: bool = False) -> Reduction:
    """The directions that keep most of the L2-normalised features of a set, images counted alike.

    Args:
        features: Training or gallery images of both modalities, N images.
        dim: Dimensions of each feature afterwards. A feature that is no wider stays as it is.
        center: Subtract the mean of the features first (the textbook's PCA).

    Returns:
        The reduction, on the CPU.

    Raises:
        MixERValueError: ``dim`` is below 1, no feature is wider than that, there are fewer images
            than ``dim`` (centred: one more), or the features are reduced already.

    Example:
        >>> import torch
        >>> from mixer_plugin import FeatureSet
        >>> from mixer_plugin.search.reduction import fit_reduction, fit_reductions
        >>> wide = FeatureSet(torch.randn(40, 16), None, [0] * 40, [1] * 40, [0, 1] * 20)
        >>> fit_reduction(wide, 4).apply(wide).erased.shape
        torch.Size([40, 4])
        >>> len(fit_reductions(wide, [8, 4, 2]))
        3
    """
    return fit_reductions(features, [dim], center=center)[0]


def fit_reductions(
    features: FeatureSet, dims: Sequence[int], *, center: bool = False
) -> list[Reduction]:
    """``fit_reduction`` for several numbers of dimensions, in the time of the largest.

    Arguments and errors as of ``fit_reduction``.

    Returns:
        A reduction for each of ``dims``, in their order.
    """
    if features.reduction is not None:
        raise MixERValueError(
            f"These features are reduced already, by {features.reduction}; fit on the ones that "
            "the network gave."
        )
    widths = {n: x.shape[1] for n in _FEATURES if (x := getattr(features, n)) is not None}
    for dim in dims:
        check_least("dim", dim)
        if max(widths.values()) <= dim:
            given = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise MixERValueError(f"No feature is wider than {dim} dimensions: {given}.")
        if len(features) < dim + center:
            raise MixERValueError(
                f"{len(features)} images do not determine {dim} directions; give at least "
                f"{dim + center} images, or fewer dimensions."
            )
    cpu = features.to("cpu")
    fitted: dict[tuple[str, int], Projection] = {}
    for name, width in widths.items():
        own = [dim for dim in dims if dim < width]
        if own:
            fitted |= {
                (name, p.directions.shape[1]): p for p in _fit(_unit(cpu, name), own, center)
            }
    return [Reduction(fitted.get(("erased", d)), fitted.get(("related", d))) for d in dims]


def _fit(unit: Tensor, dims: Sequence[int], center: bool) -> list[Projection]:
    mean = unit.mean(dim=0, dtype=torch.float64).float() if center else None
    if mean is not None:
        unit -= mean
    directions = leading_directions(unit, max(dims))
    whole, kept = 0.0, torch.zeros(max(dims), dtype=torch.float64)
    for block in torch.split(unit, _BLOCK):
        whole += float(block.square().sum(dtype=torch.float64))
        kept += (block @ directions).square().sum(dim=0, dtype=torch.float64)
    return [
        Projection(
            directions[:, :dim].contiguous(),
            mean,
            float(kept[:dim].sum()) / whole if whole else 1.0,
        )
        for dim in dims
    ]


def _unit(features: FeatureSet, name: str, rows: Tensor | None = None) -> Tensor:
    """A feature of the images int64 [M], L2-normalised, float32 [M, D], a tensor of its own."""
    if rows is None:
        rows = torch.arange(len(features))
    source = replace(unit_source(features, {"": RULES["erased"]}), sources=(name,))
    return source.rows(rows).parts[name]
