"""Keys by which images of a gallery are known: whole numbers and texts."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

from mixer_plugin.errors import MixERTypeError, MixERValueError

Key: TypeAlias = int | str


def key_list(keys: Iterable[Key]) -> list[Key]:
    """Keys as whole numbers and text.

    Raises:
        MixERTypeError: A key is neither a whole number nor a text.
        MixERValueError: A key is an empty text, no valid Unicode or beyond 64 bits.
    """
    if isinstance(keys, (str, bytes)):
        raise MixERTypeError(f"Keys must be a sequence of keys, got {keys!r}; put it in a list.")
    return [_key(each) for each in _listed(keys)]


def text_key(text: str) -> Key:
    """The whole number that a text writes, as ``-3`` does and ``03`` does not, or the text."""
    return int(text) if re.fullmatch(r"-?(0|[1-9]\d{0,17})", text) else text


def distinct_keys(keys: Iterable[Key]) -> list[Key]:
    """``key_list``, each once.

    Raises:
        MixERTypeError: As of ``key_list``.
        MixERValueError: As of ``key_list``, or a key is given twice.
    """
    checked = key_list(keys)
    seen: set[Key] = set()
    for key in checked:
        if key in seen:
            raise MixERValueError(f"Key {key!r} is given twice; nothing was changed.")
        seen.add(key)
    return checked


def _listed(keys: Any) -> list[Any]:
    return list(keys.tolist() if hasattr(keys, "tolist") else keys)


def _key(key: Any) -> Key:
    if isinstance(key, str):
        if not key or "\0" in key:
            raise MixERValueError(f"A key must be a text without NUL, and not empty, got {key!r}.")
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise MixERValueError(
                f"Key {key!r} is no valid Unicode; give keys of your own, such as numbers."
            ) from error
        return str(key)
    try:
        number = operator.index(key)
    except TypeError as error:
        raise MixERTypeError(f"A key must be a whole number or a text, got {key!r}.") from error
    if isinstance(key, bool):
        raise MixERTypeError(f"A key must be a whole number or a text, got {key!r}.")
    if not -(2**63) <= number < 2**63 - 1:
        raise MixERValueError(f"Key {number} must fit in 64 bits, below {2**63 - 1}.")
    return number
