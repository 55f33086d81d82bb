"""An index as named bytes, for its file, and back."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import Modality
from mixer_plugin.matching.score_norm import Moments
from mixer_plugin.search.faiss_index import SubIndex
from mixer_plugin.search.filters import Images
from mixer_plugin.search.fitted import GalleryStatistics
from mixer_plugin.search.gpu import import_faiss

_COLUMNS = ("ids", "cams", "modality", "alive")
_MOMENTS = ("mean", "covariance")


def pack(
    header: Mapping[str, Any],
    parts: Mapping[int, SubIndex],
    images: Images,
    first: GalleryStatistics,
) -> tuple[dict[str, Any], dict[str, bytes | memoryview]]:
    """Header and contents for ``write_parts``."""
    faiss = import_faiss()
    content: dict[str, bytes | memoryview] = {}
    for modality, part in parts.items():
        name = Modality(modality).name.lower()
        content[f"{name}.faiss"] = memoryview(faiss.serialize_index(part.index))
    for name in _COLUMNS:
        content[f"{name}.npy"] = _to_npy(getattr(images, name))
    content["paths.json"] = json.dumps(images.paths).encode()
    for name, value in (first.center or {}).items():
        content[f"center_{name}.npy"] = _to_npy(value.numpy())
    for (name, side), moments in (first.moments or {}).items():
        for field in _MOMENTS:
            value = getattr(moments, field)
            content[f"{field}_{name}_{Modality(side).name.lower()}.npy"] = _to_npy(value.numpy())
    return {**header, "faiss": faiss.__version__}, content


def unpack(
    path: Path, header: Mapping[str, Any], content: Mapping[str, bytes]
) -> tuple[dict[int, SubIndex], Images, GalleryStatistics]:
    """What ``pack`` was given, from contents whose sums are checked.

    Raises:
        MixERValueError: This FAISS cannot read the indexes of the one that wrote them.
    """
    faiss = import_faiss()
    paths = json.loads(content["paths.json"])
    columns = {name: _from_npy(content[f"{name}.npy"]) for name in _COLUMNS}
    images = Images(**columns, paths=None if paths is None else tuple(paths))
    parts = {}
    for modality in Modality:
        name = modality.name.lower()
        if f"{name}.faiss" in content:
            try:
                index = faiss.deserialize_index(np.frombuffer(content[f"{name}.faiss"], np.uint8))
            except RuntimeError as error:
                raise MixERValueError(
                    f"{path}: field {name!r} was written by FAISS {header['faiss']} and FAISS "
                    f"{faiss.__version__} cannot read it ({error}); build the index anew."
                ) from error
            parts[int(modality)] = SubIndex(index, np.flatnonzero(images.modality == modality))
    center = {
        name.removeprefix("center_").removesuffix(".npy"): torch.from_numpy(_from_npy(value))
        for name, value in content.items()
        if name.startswith("center_")
    }
    moments = {
        (name, int(side)): Moments(*(torch.from_numpy(_from_npy(content[each])) for each in fields))
        for name in ("erased", "related")
        for side in Modality
        if (fields := [f"{f}_{name}_{side.name.lower()}.npy" for f in _MOMENTS])[0] in content
    }
    return parts, images, GalleryStatistics(center=center or None, moments=moments or None)


def _to_npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _from_npy(content: bytes) -> NDArray[Any]:
    return np.load(io.BytesIO(content), allow_pickle=False)
