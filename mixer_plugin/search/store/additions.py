"""Checks what a caller adds, before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.folder import path_key
from mixer_plugin.search.keys import Key, distinct_keys
from mixer_plugin.search.store.rows import ImageRow


@dataclass(frozen=True)
class Addition:
    """What is added beside the features, a row per image.

    Attributes:
        keys: None: numbers, in the order of adding.
        times: Seconds since 1970 or None.
        payloads: JSON or None.
    """

    keys: list[Key] | None
    times: list[float | None]
    payloads: list[str | None]


def check_addition(
    features: FeatureSet,
    keys: Iterable[Key] | None,
    times: Iterable[float | None] | None,
    payloads: Iterable[dict[str, Any] | None] | None,
) -> Addition:
    """The checked arguments of ``GalleryStore.add``, which names what they raise."""
    count = len(features)
    checked = None
    if keys is not None:
        checked = distinct_keys(keys)
    elif features.paths is not None:
        checked = distinct_keys(path_key(path) for path in features.paths)
    none = (None,) * count
    seconds = [_seconds(each, i) for i, each in enumerate(none if times is None else times)]
    texts = [_json(each, i) for i, each in enumerate(none if payloads is None else payloads)]
    for name, given in (("keys", checked), ("times", seconds), ("payloads", texts)):
        if given is not None and len(given) != count:
            raise MixERValueError(
                f"{name} has {len(given)} entries for {count} images; give one for each."
            )
    return Addition(checked, seconds, texts)


def image_rows(
    features: FeatureSet, keys: Sequence[Key], addition: Addition, first: int
) -> list[ImageRow]:
    """The images as the table has them, from row ``first`` on."""
    labels = (features.ids, features.cams, features.modality)
    ids, cams, modality = (each.tolist() for each in labels)
    paths = features.paths or (None,) * len(features)
    columns = (keys, ids, cams, modality, addition.times, addition.payloads, paths)
    return [ImageRow(first + i, *line) for i, line in enumerate(zip(*columns, strict=True))]


def _seconds(value: Any, row: int) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise MixERTypeError(
            f"times must be seconds since 1970 or None, got {value!r} in row {row}."
        ) from error
    if isinstance(value, (str, bool)):
        raise MixERTypeError(
            f"times must be seconds since 1970 or None, got {value!r} in row {row}; "
            "mixer_plugin.search.filter_grammar.parse_time reads dates."
        )
    if math.isinf(seconds):
        raise MixERValueError(f"times must be finite, got {value!r} in row {row}.")
    return None if math.isnan(seconds) else seconds


def _json(payload: Any, row: int) -> str | None:
    if payload is None:
        return None
    if not isinstance(payload, dict):
        raise MixERTypeError(
            f"payloads must be dictionaries or None, got {payload!r} in row {row}."
        )
    try:
        text = json.dumps(payload, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise MixERTypeError(
            f"payloads must hold what JSON can, which row {row} does not: {error}."
        ) from error
    return text
