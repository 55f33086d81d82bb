"""Options as dataclasses: the rules of a field, and the one door that values come in by."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mixer_plugin.errors import MixERTypeError, MixERValueError, check_keys, closest

_Options = TypeVar("_Options")
_NOUNS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
}
_BOUNDS = {
    "minimum": (operator.ge, ">=", "["),
    "above": (operator.gt, ">", "("),
    "maximum": (operator.le, "<=", "]"),
    "below": (operator.lt, "<", ")"),
}
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", re.ASCII)
_NO = object()  # the value does not fit


class OptionTypeError(MixERTypeError, MixERValueError):
    """An option of the wrong type: both a ``TypeError`` and a ``ValueError``."""


def option(
    default: Any = MISSING,
    text: str = "",
    *,
    choices: Any = (),
    noun: str = "",
    **bounds: float,
) -> Any:
    """A field of an option dataclass, with the rules that :func:`check_options` checks.

    Args:
        default: its default value; left out: the option must be given.
        text: what it does.
        choices: the strings that it may be.
        noun: what is expected, such as ``a probability``; empty: named after the annotation.
        **bounds: of a number, or of every number of a tuple: ``minimum`` and ``maximum``, or
            ``above`` and ``below`` where the bound itself is excluded.
    """
    check_keys("option", bounds, _BOUNDS)
    rules = {"help": text, "choices": choices, "noun": noun, "bounds": bounds}
    return field(default=default, metadata=rules)


def build(cls: type[_Options], values: Any, where: str) -> _Options:
    """A dataclass of the mapping that a file holds, each value checked before it is used.

    Args:
        cls: the dataclass; fields that are dataclasses are built of mappings within.
        values: field → value, as YAML gives it.
        where: what messages call it, such as ``recipe``; empty: fields are named alone.

    Raises:
        OptionTypeError: for a value of another type than its field's.
        MixERValueError: for a key that is unknown (the closest is named) or missing, or a value
            outside its bounds or choices.
    """
    if not isinstance(values, Mapping):
        raise OptionTypeError(
            f"{where or cls.__name__} is {shown(values)}; expected `key: value` lines."
        )
    own = {item.name: item for item in fields(cls) if item.init}  # type: ignore[arg-type]
    check_keys(where or "configuration", values, own)
    for name, item in own.items():
        if name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise MixERValueError(f"{f'{where}.{name}'.lstrip('.')} is missing: it has no default.")
    return cls(**_fitted(cls, values, where))


def check_options(options: Any, where: str = "") -> None:
    """Checks every field of a dataclass; for its ``__post_init__``.

    The annotation gives the type, see :func:`fit`; :func:`option` gives bounds and choices. What
    ``fit`` converts is kept converted.

    Args:
        options: a dataclass instance.
        where: what the message calls it; empty: the name of its class.

    Raises:
        OptionTypeError: for a value of another type.
        MixERValueError: for a value outside its bounds or choices; names the closest choice.
    """
    given = {item.name: getattr(options, item.name) for item in fields(options)}
    for name, value in _fitted(type(options), given, where or type(options).__name__).items():
        if value is not given[name]:
            object.__setattr__(options, name, value)


def fit(value: Any, kind: Any, where: str, rules: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """A value as its annotation has it, or an error that names it.

    True and false are no numbers; numbers are finite and of 64 bits at most. Text is taken for a
    float only in the form ``1e-3``, which PyYAML reads as text. A list becomes a tuple and a
    mapping a dataclass, where the annotation says so.

    Args:
        value: what was given.
        kind: the annotation: bool, int, float, str, Path, a dataclass, ``Literal``, ``tuple``,
            ``list`` or ``Mapping`` of such, or a union of them; else a class.
        where: what the message calls it.
        rules: metadata of :func:`option`.

    Raises:
        OptionTypeError: for a value of another type.
        MixERValueError: for a value outside its bounds or choices.
    """
    union = get_origin(kind) in (Union, UnionType)
    kinds = [each for each in (get_args(kind) if union else (kind,)) if each is not NoneType]
    optional = union and len(kinds) < len(get_args(kind))
    if value is None and optional:
        return None
    choices = rules.get("choices") or (get_args(kind) if get_origin(kind) is Literal else ())
    if choices:
        if isinstance(value, (bool, float)) or value not in list(choices):
            raise MixERValueError(f"{where} is {shown(value)}.{closest(value, map(str, choices))}")
        return value
    inner = [each for each in kinds if _holds_keys(each)]
    if isinstance(value, Mapping) and len(inner) == 1:
        return _fit_mapping(value, inner[0], where)
    found = next((v for v in (_plain(value, each) for each in kinds) if v is not _NO), _NO)
    nouns = " or ".join(dict.fromkeys(_noun(each, rules.get("noun", "")) for each in kinds))
    expected = f"{nouns}{_interval(rules.get('bounds', {}))}{', or none' if optional else ''}"
    message = f"{where} is {shown(value)}; expected {expected}."
    if found is _NO:
        raise OptionTypeError(message)
    tests = [(_BOUNDS[name][0], bound) for name, bound in rules.get("bounds", {}).items()]
    for number in _numbers(found):
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise MixERValueError(f"{message[:-1]}, of at most 64 bits.")
        if not math.isfinite(number) or not all(test(number, bound) for test, bound in tests):
            raise MixERValueError(message)
    return found


def shown(value: Any) -> str:
    """A given value in a message: on one line, and cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of too many digits"
    return text if len(text) <= 120 else f"{text[:117]}..."


def _fitted(cls: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The given fields of a dataclass, each as its annotation has it."""
    hints, own = _hints(cls), {item.name: item.metadata for item in fields(cls)}
    return {
        name: fit(value, hints[name], f"{where}.{name}".lstrip("."), own[name])
        for name, value in values.items()
    }


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _holds_keys(kind: Any) -> bool:
    return is_dataclass(kind) or get_origin(kind) in (dict, Mapping) or kind is dict


def _fit_mapping(value: Mapping[Any, Any], kind: Any, where: str) -> Any:
    if is_dataclass(kind):
        return build(kind, value, where)  # type: ignore[arg-type]
    key_kind, of_values = get_args(kind) or (Any, Any)
    for key in value:
        if _plain(key, key_kind) is _NO:
            raise OptionTypeError(f"{where} has the key {shown(key)}; expected {_noun(key_kind)}.")
    return {key: fit(each, of_values, f"{where}.{key}") for key, each in value.items()}


def _plain(value: Any, kind: Any) -> Any:
    """A value that holds no fields of its own, as ``kind`` has it; ``_NO`` if it does not fit."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    if kind in (int, float):
        wanted = (int, float) if kind is float else (int,)
        return value if isinstance(value, wanted) and not isinstance(value, bool) else _NO
    if kind in (str, Path) and isinstance(value, (str, os.PathLike)):
        return kind(value) if isinstance(value, os.PathLike) or kind is Path else value
    if origin in (tuple, list):
        if not isinstance(value, (tuple, list)):
            return _NO
        repeats = origin is list or inner[-1] is ...
        kinds = inner[:1] * len(value) if repeats else inner
        found = [_plain(v, k) for v, k in zip(value, kinds, strict=False)]
        if len(kinds) != len(value) or any(each is _NO for each in found):
            return _NO
        same = isinstance(value, origin) and all(a is b for a, b in zip(found, value, strict=True))
        return value if same else origin(found)
    try:
        return value if isinstance(value, origin or kind) else _NO
    except TypeError:  # Any, or a protocol: nothing to compare with
        return value


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _noun(kind: Any, noun: str = "") -> str:
    """What a value of this kind is called; ``noun``: what a value, or each of several, is."""
    if get_origin(kind) in (tuple, list):
        first, *rest = get_args(kind)
        count = "" if not rest or rest == [...] else f"{1 + len(rest)} "
        return f"{count}values, each {_noun(first, noun)}"
    if _holds_keys(kind):
        return "`key: value` lines"
    return noun or _NOUNS.get(kind) or f"a {getattr(kind, '__name__', kind)}"


def _interval(bounds: Mapping[str, float]) -> str:
    """`` >= 0`` or `` in [0, 1)``; empty without bounds."""
    found = [(*_BOUNDS[name][1:], bounds[name]) for name in _BOUNDS if name in bounds]
    if len(found) < 2:
        return "".join(f" {sign} {bound:.10g}" for sign, _, bound in found)
    (_, opening, low), (_, closing, high) = found
    return f" in {opening}{low:.10g}, {high:.10g}{closing}"
