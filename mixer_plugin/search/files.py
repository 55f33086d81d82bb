"""A file of named parts with checksums, written aside and renamed."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.atomic_write import atomic_write

_FORMAT = "mixer-plugin search index"
_VERSION = 1
_HEADER, _SEAL = "header.json", "header.sha256"


def write_parts(
    path: Path, header: Mapping[str, Any], parts: Mapping[str, bytes | memoryview]
) -> None:
    """Writes an uncompressed zip of the parts, a header and SHA-256 sums of all of them.

    Args:
        path: The file; its folder must be there.
        header: What JSON can hold.
        parts: Contents by name.

    Raises:
        MixERValueError: The folder does not exist.
    """
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    whole = {"format": _FORMAT, "version": _VERSION, **header, "sha256": sums}
    text = json.dumps(whole, indent=2).encode()
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        seal = hashlib.sha256(text).hexdigest().encode()
        for name, content in {_HEADER: text, _SEAL: seal, **parts}.items():
            # ZipInfo has a fixed date: the same index gives the same file.
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(content)


def read_parts(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Reads what ``write_parts`` wrote; nothing is interpreted before its sum is checked.

    The sums find damage; they do not make a stranger's file trustworthy.

    Raises:
        MixERValueError: There is no such file, it is no search index, of a newer version,
            truncated, or a part of it, named in the message, is damaged or missing.
    """
    if not path.is_file():
        raise MixERValueError(f"{path} is not a file; give one that MixedModalIndex.save wrote.")
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # a damaged directory raises errors of many kinds
        raise MixERValueError(
            f"{path} is truncated or no search index ({error}); write it with MixedModalIndex.save."
        ) from error
    with archive:
        names = set(archive.namelist())
        if _HEADER not in names:
            raise MixERValueError(f"{path} has no field 'header': it is no search index.")
        text = _read(archive, _HEADER, path)
        if _read(archive, _SEAL, path) != hashlib.sha256(text).hexdigest().encode():
            raise _damaged(path, _HEADER, "its SHA-256 differs from the one written")
        header = json.loads(text)
        if (header["format"], header["version"]) != (_FORMAT, _VERSION):
            raise MixERValueError(
                f"{path} is of format {header['format']!r} version {header['version']}; this "
                f"package reads {_FORMAT!r} version {_VERSION}. Build the index anew."
            )
        parts = {}
        for name, expected in header["sha256"].items():
            parts[name] = _read(archive, name, path)
            if hashlib.sha256(parts[name]).hexdigest() != expected:
                raise _damaged(path, name, "its SHA-256 differs from the one written")
    return header, parts


def is_index_file(path: Path) -> bool:
    """Whether a file looks like one of ``write_parts``, whole or not."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return _HEADER in archive.namelist()
    except zipfile.BadZipFile:
        return False


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except Exception as error:  # as above
        raise _damaged(path, name, str(error)) from error


def _damaged(path: Path, name: str, reason: str) -> MixERValueError:
    field = name.rpartition(".")[0]
    return MixERValueError(
        f"{path}: field {field!r} is damaged ({reason}); copy or build the index anew."
    )
