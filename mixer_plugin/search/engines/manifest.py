"""What a collection must know of its vectors: rule, calibration, feature space, statistics."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from mixer_plugin.errors import MixERValueError
from mixer_plugin.matching.normalized import Lift
from mixer_plugin.search.fitted import GalleryStatistics, statistics_arrays, statistics_from
from mixer_plugin.search.spaces import FeatureSpace

_FORMAT = "mixer-plugin collection 1"


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
    header: dict[str, Any] = {"format": _FORMAT, "rule": manifest.rule}
    header |= {"calibration": manifest.calibration, "space": asdict(manifest.space)}
    header["lift"] = None if statistics.lift is None else list(statistics.lift)
    file = io.BytesIO()
    held = {"header": np.asarray(json.dumps(header)), **statistics_arrays(statistics)}
    np.savez_compressed(file, allow_pickle=False, **held)
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
        lift = None if header["lift"] is None else Lift(*map(float, header["lift"]))
        statistics = statistics_from(arrays, lift)
        space = FeatureSpace(**{f.name: header["space"][f.name] for f in fields(FeatureSpace)})
        return Manifest(header["rule"], header["calibration"], space, statistics)
    except Exception as error:  # whatever NumPy, zipfile and json make of other bytes
        raise MixERValueError(
            f"The manifest of collection {name!r} cannot be read ({error}); make the collection "
            "anew from its features."
        ) from error
