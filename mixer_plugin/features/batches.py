"""The batch of a loader: each field is told by what it holds, and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_plugin.errors import MixERTypeError, MixERValueError, check_name
from mixer_plugin.features.label_csv import MODALITIES
from mixer_plugin.features.validation import label_vector, modality_vector, path_tuple
from mixer_plugin.releases import SYSU

_FIELDS = ("images", "ids", "cams", "modality", "paths")
_WORDS = {word: int(side) for side, words in MODALITIES.items() for word in words}


def unpack(batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...] | None]:
    """Images, ids, cams, modality and paths of a loader's batch, each checked.

    Raises:
        MixERValueError: A field is missing, has another number of entries than there are images,
            or holds no whole numbers; or no modality is given and a camera is none of SYSU-MM01's.
        MixERTypeError: A field is of another kind.
    """
    if isinstance(batch, Mapping):
        found = {name: batch[name] for name in _FIELDS if name in batch}
    elif isinstance(batch, (list, tuple)):
        found = dict(zip(_FIELDS[:3], batch, strict=False))
        # Collate functions give lists, arrays or tensors: what a field holds tells which it is.
        for value in batch[3:5]:
            texts = _texts(value)
            if texts is not None and not _WORDS.keys() >= {text.lower() for text in texts}:
                found["paths"] = value
                break
            if "modality" not in found:
                found["modality"] = value
    else:
        found = {}
    found = {name: value for name, value in found.items() if value is not None}
    missing = [name for name in _FIELDS[:3] if name not in found]
    if missing:
        raise MixERValueError(
            f"A batch of the loader ({type(batch).__name__}) has no {', '.join(missing)}. Expected "
            "a mapping with images, ids, cams and optionally modality and paths, or a sequence of "
            "these in this order."
        )
    images = found["images"]
    if not isinstance(images, Tensor):
        raise MixERTypeError(f"images of a batch must be a tensor, got {type(images).__name__}.")
    ids, cams = (label_vector(name, found[name]) for name in ("ids", "cams"))
    modality = _read_modality(found.get("modality"), cams)
    paths = path_tuple(found["paths"]) if "paths" in found else None
    fields = {"ids": ids, "cams": cams, "modality": modality, "paths": paths}
    for name, value in fields.items():
        if value is not None and len(value) != len(images):
            raise MixERValueError(
                f"A batch of the loader has {len(images)} images, but {len(value)} {name}."
            )
    return images, ids, cams, modality, paths


def _texts(value: Any) -> list[str] | None:
    """The strings or paths that a field holds, as strings; None where it holds something else."""
    values = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(values, (list, tuple)) or not values:
        return None
    if not all(isinstance(each, (str, os.PathLike)) for each in values):
        return None
    return [str(each) for each in values]


def _read_modality(given: Any, cams: Tensor) -> Tensor:
    """Int64 [B], from numbers or words, or from SYSU-MM01's cameras where nothing is given."""
    if given is not None:
        texts = _texts(given)
        for text in texts or ():
            check_name("modality", text.lower(), _WORDS)
        return modality_vector(given if texts is None else [_WORDS[t.lower()] for t in texts])
    strange = cams[~torch.isin(cams, cams.new_tensor(SYSU.every_camera))]
    if len(strange):
        raise MixERValueError(
            f"The loader's batches hold no modality, and camera {int(strange[0])} is none of "
            "SYSU-MM01's (1 to 6), of which 3 and 6 are infrared. Let the loader give modality: 0 "
            "visible, 1 infrared."
        )
    return torch.isin(cams, cams.new_tensor(SYSU.infrared)).long()
