"""What a request brings: features as JSON or ``.npz``, or an image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from zipfile import BadZipFile, ZipFile

from mixer_plugin.errors import MixERTypeError, MixERValueError, check_keys
from mixer_plugin.features import FeatureSet
from mixer_plugin.features.label_csv import read_modality
from mixer_plugin.io.array_file import read_arrays
from mixer_plugin.search.service.refusals import Refused

Embed: TypeAlias = Callable[[Path, int, int, int], FeatureSet]
"""Makes features of an image file, its modality, camera and identity."""

_ZIP, _UNKNOWN = b"PK", -1
_FEATURES = ("erased", "related", "ids", "cams", "modality", "paths")
_BESIDE = ("keys", "times", "payloads")
_MOST_TIMES = 4  # larger than the body may arrays of an .npz be, which can be compressed


@dataclass(frozen=True)
class Brought:
    """Features of images.

    Attributes:
        features: The features.
        beside: ``keys``, ``times`` and ``payloads`` that are given, as of ``GalleryStore.add``.
        from_image: Whether the model made them of an image.
    """

    features: FeatureSet
    beside: dict[str, Any]
    from_image: bool = False


@dataclass(frozen=True)
class ImageLabels:
    """What the address of a request says of its image; None: nothing."""

    modality: str | None
    camera: int | None
    id: int | None

    def given(self) -> list[str]:
        """The names of those given."""
        return [name for name, value in vars(self).items() if value is not None]


def read_body(body: bytes, labels: ImageLabels, embed: Embed | None, most_bytes: int) -> Brought:
    """What a body holds, told by its first bytes.

    Raises:
        Refused: It is empty, or JSON that cannot be read.
        MixERError: What it holds is not as it should be.
    """
    if not body:
        raise Refused(400, "The body is empty; send features as JSON or .npz, or an image.")
    if not (body.startswith(_ZIP) or body.lstrip()[:1] in (b"{", b"[")):
        return Brought(_of_image(body, labels, embed), {}, from_image=True)
    if labels.given():
        raise MixERValueError(
            f"{', '.join(labels.given())} would change nothing: features bring their own labels."
        )
    return _of_npz(body, most_bytes) if body.startswith(_ZIP) else _of_json(body)


def _of_image(body: bytes, labels: ImageLabels, embed: Embed | None) -> FeatureSet:
    if embed is None:
        raise MixERValueError(
            "The body is neither JSON nor an .npz, and the service has no model that takes images; "
            "start it with --model, or send features."
        )
    if labels.modality is None:
        raise MixERValueError("Say the image's modality: ?modality=visible or infrared.")
    side = read_modality(labels.modality, "modality")
    with _in_file(body, "The image") as path:
        camera = _UNKNOWN if labels.camera is None else labels.camera
        return embed(path, side, camera, _UNKNOWN if labels.id is None else labels.id)


def _of_npz(body: bytes, most_bytes: int) -> Brought:
    with _in_file(body, "The .npz") as path:
        try:
            with ZipFile(path) as archive:
                size = sum(each.file_size for each in archive.infolist())
        except (BadZipFile, ValueError, NotImplementedError, OSError) as error:
            raise Refused(400, f"The .npz is damaged ({error}); send it again.") from error
        if size > _MOST_TIMES * most_bytes:
            raise Refused(413, f"The .npz holds {size:,} bytes of arrays; send fewer images.")
        features = FeatureSet.load(path)
        arrays, _ = read_arrays(path, ("keys", "time"))
    beside: dict[str, Any] = {}
    if "keys" in arrays:
        beside["keys"] = arrays["keys"].tolist()
    if "time" in arrays:
        beside["times"] = arrays["time"].tolist()
    return Brought(features, beside)


def _of_json(body: bytes) -> Brought:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is no JSON ({error}); send one object.") from error
    if not isinstance(content, dict):
        raise Refused(400, "The body must be one JSON object with the key 'erased'.")
    check_keys("the body", content, (*_FEATURES, *_BESIDE))
    missing = [name for name in ("erased", "modality") if content.get(name) is None]
    if missing:
        raise MixERValueError(f"The body lacks {' and '.join(missing)}, one entry per image.")
    for name in (*_FEATURES, *_BESIDE):
        if not isinstance(content.get(name), (list, type(None))):
            raise MixERTypeError(f"{name} must be a list with one entry per image.")
    count = len(content["erased"])
    sides = [_side(each, row) for row, each in enumerate(content["modality"])]
    unknown = [_UNKNOWN] * count
    features = FeatureSet(
        erased=content["erased"],
        related=content.get("related"),
        ids=unknown if content.get("ids") is None else content["ids"],
        cams=unknown if content.get("cams") is None else content["cams"],
        modality=sides,
        paths=content.get("paths"),
    )
    beside = {name: content[name] for name in _BESIDE if content.get(name) is not None}
    return Brought(features, beside)


def _side(value: Any, row: int) -> Any:
    return read_modality(value, f"modality, row {row}") if isinstance(value, str) else value


@contextmanager
def _in_file(body: bytes, name: str) -> Iterator[Path]:
    """A file of these bytes; errors call it by name."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "body")
        path.write_bytes(body)
        try:
            yield path
        except (MixERValueError, MixERTypeError) as error:
            raise type(error)(str(error).replace(str(path), name)) from error
