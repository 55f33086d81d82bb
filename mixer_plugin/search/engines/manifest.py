"""What a collection must know of its vectors: rule, calibration, feature space, statistics."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import Modality
from mixer_plugin.matching.normalized import Lift
from mixer_plugin.matching.score_norm import Moments
from mixer_plugin.search.fitted import SOURCES, GalleryStatistics
from mixer_plugin.search.spaces import FeatureSpace

_FORMAT = "mixer-plugin collection 1"
_MOMENTS = ("mean", "covariance")


@dataclass(frozen=True)
class Manifest:
    """Written once, when the collection is made.

    Attributes:
        rule: Name of the rule.
        calibration: None or ``center``.
        space: Of the features.
        statistics: Of the first set.
    """

    rule: str
    calibration: str | None
    space: FeatureSpace
    statistics: GalleryStatistics


def to_bytes(manifest: Manifest) -> bytes:
    """ASCII: base64 of an ``.npz`` without pickled objects."""
    statistics = manifest.statistics
    arrays: dict[str, Any] = {
        f"center_{name}": each.numpy() for name, each in (statistics.center or {}).items()
    }
    for (name, side), moments in (statistics.moments or {}).items():
        for field in _MOMENTS:
            arrays[f"{field}_{name}_{side}"] = getattr(moments, field).numpy()
    header: dict[str, Any] = {"format": _FORMAT, "rule": manifest.rule}
    header |= {"calibration": manifest.calibration, "space": asdict(manifest.space)}
    header["lift"] = None if statistics.lift is None else list(statistics.lift)
    file = io.BytesIO()
    np.savez_compressed(file, header=np.asarray(json.dumps(header)), **arrays)
    return base64.b64encode(file.getvalue())


def from_bytes(given: bytes, name: str) -> Manifest:
    """The manifest of a collection of this name.

    Raises:
        MixERValueError: It is damaged, or of another version.
    """
    try:
        with np.load(io.BytesIO(base64.b64decode(given, validate=True))) as file:
            arrays = {key: file[key] for key in file.files}
        header = json.loads(str(arrays["header"]))
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']!r}, expected {_FORMAT!r}")
        center = {
            s: torch.from_numpy(arrays[f"center_{s}"]) for s in SOURCES if f"center_{s}" in arrays
        }
        moments = {
            (s, int(side)): Moments(
                *(torch.from_numpy(arrays[f"{m}_{s}_{side}"]) for m in _MOMENTS)
            )
            for s in SOURCES
            for side in map(int, Modality)
            if f"{_MOMENTS[0]}_{s}_{side}" in arrays
        }
        lift = None if header["lift"] is None else Lift(*map(float, header["lift"]))
        statistics = GalleryStatistics(center=center or None, moments=moments or None, lift=lift)
        space = FeatureSpace(**{f.name: header["space"][f.name] for f in fields(FeatureSpace)})
        return Manifest(header["rule"], header["calibration"], space, statistics)
    except Exception as error:  # whatever NumPy, zipfile and json make of other bytes
        raise MixERValueError(
            f"The manifest of collection {name!r} cannot be read ({error}); make the collection "
            "anew from its features."
        ) from error
