"""Reads and writes feature files; every error names file and field."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.features.label_csv import read_labels
from mixer_plugin.features.sysu_mat import read_sysu_mat
from mixer_plugin.features.validation import check_distinct, named
from mixer_plugin.io.array_file import map_array, read_arrays
from mixer_plugin.io.atomic_write import atomic_write

Kind = Literal["npz", "npy", "mat"]
LABELS = ("ids", "cams", "modality")
_NEEDED = ("erased", *LABELS)


def read_features(
    path: Path,
    labels: Path | None = None,
    related: Path | None = None,
    identities: Iterable[int] | None = None,
) -> tuple[dict[str, Any], str]:
    """Reads the fields of a ``FeatureSet`` from files; see ``FeatureSet.load``.

    Returns:
        The fields by name, not yet validated, and what to call their files in an error.
    """
    kind = file_kind(path)
    if labels is not None and kind != "npy":
        raise MixERValueError(
            f"{path} brings its own ids, cameras and modalities; labels={str(labels)!r} is for "
            "an .npy of features only."
        )
    if identities is not None and kind != "mat":
        raise MixERValueError(
            f"{path} is an .{kind}; identities is for SYSU-MM01's .mat files. Choose rows of the "
            "loaded set instead: features[mask]."
        )
    if kind == "mat":
        return read_sysu_mat(path, related=related, identities=identities), str(path)
    if kind == "npy":
        return _read_npy(path, labels, related)
    if related is not None:
        raise MixERValueError(
            f"{path} is an .npz, which holds related features as its array 'related'; "
            f"related={str(related)!r} is for .npy and .mat."
        )
    return _read_npz(path), str(path)


def file_kind(path: Path) -> Kind:
    """The kind of a file by its first bytes, or of a folder: ``mat``.

    Raises:
        MixERValueError: There is no such file, or it is of none of these kinds.
    """
    if path.is_dir():
        return "mat"
    if not path.is_file():
        raise MixERValueError(f"{path} is not a file; give features as .npz, .npy or .mat.")
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"PK"):
        return "npz"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith((b"MATLAB ", b"\x89HDF")):
        return "mat"
    raise MixERValueError(
        f"{path} is not an .npz of plain arrays, an .npy or a .mat: it "
        + (f"begins with {start!r}" if start else "is empty")
        + "; write it with FeatureSet.save, numpy.save or MATLAB's save."
    )


def _check_images(erased: NDArray[Any], paths: Sequence[str] | None) -> None:
    """Raises ``MixERValueError`` unless there are images, and none twice by its path."""
    if erased.shape[:1] == (0,):
        raise MixERValueError("it holds no image (zero rows); was the extraction interrupted?")
    check_distinct(paths, links=True)


def _read_npz(path: Path) -> dict[str, Any]:
    advice = "write it with FeatureSet.save or numpy.savez"
    arrays, held = read_arrays(path, (*_NEEDED, "related", "paths", "reduction"), advice)
    content: dict[str, Any] = dict(arrays)
    missing = [name for name in _NEEDED if name not in content]
    if missing:
        raise MixERValueError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(held) or 'nothing'}."
        )
    with named(path):
        paths = content.get("paths")
        if paths is not None and (paths.dtype.kind != "U" or paths.ndim != 1):
            raise MixERTypeError(
                f"paths must be one string per image, got shape {paths.shape} of {paths.dtype}."
            )
        content["paths"] = None if paths is None else tuple(paths.tolist())
        reduction = content.get("reduction")
        if reduction is not None:
            if reduction.dtype.kind != "U" or reduction.ndim != 0:
                raise MixERTypeError(
                    "reduction must be one string, the fingerprint of a reduction, got shape "
                    f"{reduction.shape} of {reduction.dtype}."
                )
            content["reduction"] = str(reduction)
        _check_images(content["erased"], content["paths"])
    return {"related": None, **content}


def _read_npy(path: Path, labels: Path | None, related: Path | None) -> tuple[dict[str, Any], str]:
    if labels is None:
        raise MixERValueError(
            f"{path} holds one array without ids, cameras and modalities; give them as "
            "labels='labels.csv' (a header id, camera, modality and a line per row), or write an "
            ".npz with FeatureSet.save."
        )
    table = read_labels(labels)
    erased = _map_array(path, "erased")
    beside = None if related is None else _map_array(related, "related")
    for source, rows in ((labels, table.ids), (related, beside)):
        if rows is not None and len(rows) != len(erased):
            raise MixERValueError(
                f"{source} has {len(rows)} rows, but {path} has {len(erased)}; row i of both must "
                "belong to image i."
            )
    with named(labels):
        _check_images(erased, table.paths)
    fields = {"erased": erased, "related": beside, **dataclasses.asdict(table)}
    return fields, str(path) if related is None else f"{path} and {related}"


def _map_array(path: Path, field: str) -> NDArray[Any]:
    """An ``.npy`` mapped into memory: it is read once, when it becomes float32."""
    if file_kind(path) != "npy":
        raise MixERValueError(f"{path}: {field} must be an .npy beside another .npy.")
    array = map_array(path, field)
    if array.ndim != 2:
        raise MixERValueError(f"{path}: {field} must be [images, width], got {array.shape}.")
    return array


def write_npz(arrays: Mapping[str, Any], target: Path) -> None:
    """Writes arrays to an uncompressed ``.npz``, whole or not at all."""
    with atomic_write(target) as file:
        np.savez(file, **arrays)
