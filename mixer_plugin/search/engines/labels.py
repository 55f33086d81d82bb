"""Checks what a caller adds to a collection, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mixer_plugin.errors import MixERValueError
from mixer_plugin.features import FeatureSet
from mixer_plugin.search.engines.protocol import Labels
from mixer_plugin.search.filter_grammar import payload_leaves
from mixer_plugin.search.keys import Key
from mixer_plugin.search.store.additions import check_addition


def make_labels(
    features: FeatureSet,
    keys: Iterable[Key],
    times: Iterable[float | None] | None,
    payloads: Iterable[dict[str, Any] | None] | None,
    longest: int,
) -> list[Labels]:
    """The labels of N images; arguments as of ``EngineGallery.add`` and ``Engine``.

    Raises:
        MixERTypeError: A key, time or payload is of another kind.
        MixERValueError: There is not one for each image, a key is given twice, is a text or below
            0, a payload holds what no filter compares, or a text is no Unicode or too long.
    """
    addition = check_addition(features, keys, times, payloads)
    for row, path in enumerate(features.paths or ()):
        _check_text(path, f"The path of row {row}", longest)
    columns = (features.ids, features.cams, features.modality)
    rows = zip(
        addition.keys or (),
        *(column.tolist() for column in columns),
        addition.times,
        features.paths or (None,) * len(features),
        (_payload(text, row, longest) for row, text in enumerate(addition.payloads)),
        strict=True,
    )
    return [
        Labels(
            key=_number(key),
            id=person,
            camera=camera,
            modality=side,
            time=time,
            path=path,
            payload=payload,
        )
        for key, person, camera, side, time, path, payload in rows
    ]


def _number(key: Key) -> int:
    if isinstance(key, str) or key < 0:
        raise MixERValueError(f"Keys of a collection are whole numbers from 0 on, got {key!r}.")
    return key


def _check_text(text: str, what: str, longest: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise MixERValueError(
            f"{what} is no valid Unicode, which no engine keeps: {text!r}. Write it in another way."
        ) from error
    if size > longest:
        raise MixERValueError(f"{what} has {size} bytes; this engine takes {longest}. Shorten it.")


def _payload(text: str | None, row: int, longest: int) -> dict[str, Any]:
    payload: dict[str, Any] = {} if text is None else json.loads(text)
    whole = json.dumps(payload, ensure_ascii=False)
    _check_text(whole, f"The payload of row {row}", longest)
    kept: dict[str, Any] = {}
    for (*folders, name), value in payload_leaves(payload).items():
        place = kept
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    if kept != payload:
        raise MixERValueError(
            f"An engine keeps texts, numbers, true and false, but the payload of row {row} holds "
            f"a list, null or an empty object: {text}. Leave it out, or write it as a text."
        )
    return payload
