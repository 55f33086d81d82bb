"""The file of an index: a zip of named parts with checksums, replaced only by a complete one."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.errors import MixERError, MixERValueError
from mixer_plugin.features import Modality
from mixer_plugin.io.array_file import zip_names
from mixer_plugin.io.atomic_write import atomic_write
from mixer_plugin.matching.normalized import Lift
from mixer_plugin.search.faiss_index import SubIndex
from mixer_plugin.search.fitted import GalleryStatistics, statistics_arrays, statistics_from
from mixer_plugin.search.gpu import import_faiss
from mixer_plugin.search.images import NO_IMAGES, Images

_FORMAT = "mixer-plugin search index"
_VERSION = 1
_HEADER, _SEAL = "header.json", "header.sha256"
_SETTINGS = ("rule", "factory", "calibration", "parameters", "widths")
_COLUMNS = ("ids", "cams", "modality", "alive")


def write_index(
    path: Path,
    settings: Mapping[str, Any],
    parts: Mapping[int, SubIndex],
    images: Images,
    statistics: GalleryStatistics,
) -> None:
    """Writes an uncompressed zip of the index, a header and SHA-256 sums of all members.

    Args:
        path: The file; its folder must be there.
        settings: The index's, as JSON has them.
        parts: FAISS indexes by modality.
        images: Their images.
        statistics: Of the first set.

    Raises:
        MixERValueError: The folder does not exist.
    """
    faiss = import_faiss()
    content: dict[str, Any] = {
        f"{Modality(side).name.lower()}.faiss": memoryview(faiss.serialize_index(part.index))
        for side, part in parts.items()
    }
    content |= {f"{name}.npy": _to_npy(getattr(images, name)) for name in _COLUMNS}
    content["paths.json"] = json.dumps(images.paths).encode()
    content |= {
        f"{name}.npy": _to_npy(array) for name, array in statistics_arrays(statistics).items()
    }
    sums = {name: hashlib.sha256(each).hexdigest() for name, each in content.items()}
    header = {"format": _FORMAT, "version": _VERSION, **settings, "faiss": faiss.__version__}
    if statistics.lift is not None:
        header["lift"] = list(statistics.lift)
    text = json.dumps({**header, "sha256": sums}, indent=2).encode()
    seal = hashlib.sha256(text).hexdigest().encode()
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, each in {_HEADER: text, _SEAL: seal, **content}.items():
            # ZipInfo has a fixed date: the same index gives the same file.
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(each)


def read_index(path: Path) -> tuple[dict[str, Any], dict[int, SubIndex], Images, GalleryStatistics]:
    """Reads an index; checks each member's sum before using it.

    The sums find damage; they do not make a stranger's file trustworthy.

    Raises:
        MixERValueError: There is no such file, it is no search index, of another version or
            truncated, a part of it is damaged or missing (the message names the part), or this
            FAISS cannot read what the one that wrote the file made.
    """
    try:
        return _read_index(path)
    except MixERError:
        raise
    except Exception as error:  # sums that fit, of a file that another program wrote
        raise MixERValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); build the index anew."
        ) from error


def _read_index(
    path: Path,
) -> tuple[dict[str, Any], dict[int, SubIndex], Images, GalleryStatistics]:
    header, content = _read_members(path)
    faiss = import_faiss()
    arrays = {
        name.removesuffix(".npy"): np.load(io.BytesIO(each), allow_pickle=False)
        for name, each in content.items()
        if name.endswith(".npy")
    }
    paths = json.loads(content["paths.json"])
    if lacks := {*_SETTINGS, "faiss"} - header.keys():
        raise MixERValueError(f"{path}: field 'header' lacks {', '.join(sorted(lacks))}.")
    columns = [arrays[name] for name in _COLUMNS] + ([] if paths is None else [paths])
    if len(set(map(len, columns))) > 1:
        raise ValueError("its columns differ in length")
    images = NO_IMAGES.extended(arrays["ids"], arrays["cams"], arrays["modality"], paths)
    images = replace(images, alive=arrays["alive"])
    parts: dict[int, SubIndex] = {}
    for side in Modality:
        if (name := side.name.lower() + ".faiss") in content:
            try:
                index = faiss.deserialize_index(np.frombuffer(content[name], np.uint8))
            except RuntimeError as error:
                raise MixERValueError(
                    f"{path}: field {_field(name)!r} was written by FAISS {header['faiss']} and "
                    f"FAISS {faiss.__version__} cannot read it ({error}); build the index anew."
                ) from error
            keys = np.flatnonzero(images.modality == side)
            if index.ntotal != len(keys):
                raise ValueError(f"{index.ntotal} vectors of {len(keys)} images")
            parts[side] = SubIndex(index, keys)
    statistics = statistics_from(arrays, None)
    if statistics.moments:
        if "lift" not in header:
            raise MixERValueError(
                f"{path} was written before calibrated rules weighed pairs across modalities; "
                "build the index anew."
            )
        statistics = replace(statistics, lift=Lift(*map(float, header["lift"])))
    return header, parts, images, statistics


def is_index_file(path: Path) -> bool:
    """Whether a file was started by ``write_index``, complete or not."""
    return path.is_file() and _HEADER in zip_names(path)


def _read_members(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The header and the other members of a file, once their sums are checked."""
    if not path.is_file():
        raise MixERValueError(f"{path} is not a file; give one that MixedModalIndex.save wrote.")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # a damaged directory raises errors of many kinds
        raise MixERValueError(
            f"{path} is truncated or no search index ({error}); write it with MixedModalIndex.save."
        ) from error
    with archive:
        if _HEADER not in archive.namelist():
            raise MixERValueError(f"{path} has no field 'header': it is no search index.")
        seal = _read(archive, _SEAL, path).decode("latin1")  # damaged, it may hold any byte
        header = json.loads(_read(archive, _HEADER, path, seal))
        if (header["format"], header["version"]) != (_FORMAT, _VERSION):
            raise MixERValueError(
                f"{path} is of format {header['format']!r} version {header['version']}; this "
                f"package reads {_FORMAT!r} version {_VERSION}. Build the index anew."
            )
        sums = header["sha256"]
        return header, {name: _read(archive, name, path, sums[name]) for name in sums}


def _read(archive: zipfile.ZipFile, name: str, path: Path, expected: str | None = None) -> bytes:
    """A member; ``MixERValueError`` where it is missing, unreadable or of another SHA-256."""
    try:
        info = archive.getinfo(name)
        if max(info.file_size, info.compress_size) > path.stat().st_size:  # nothing is compressed
            raise ValueError("it is larger than the file")
        content = archive.read(name)
        if expected not in (None, hashlib.sha256(content).hexdigest()):
            raise ValueError("its SHA-256 differs from the one written")
    except Exception as error:  # as above
        raise MixERValueError(
            f"{path}: field {_field(name)!r} is damaged ({error}); copy or build the index anew."
        ) from error
    return content


def _field(name: str) -> str:
    return name.rpartition(".")[0]


def _to_npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
