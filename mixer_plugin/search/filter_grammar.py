"""The language of filters: ``camera in (1, 2) and time >= 2026-11-28T14:00``, parsed.

::

    filter     = and-part ("or" and-part)*
    and-part   = part ("and" part)*
    part       = "not" part | "(" filter ")" | comparison
    comparison = FIELD ("==" | "!=" | "<" | "<=" | ">" | ">=") VALUE
               | FIELD ["not"] "in" "(" VALUE ("," VALUE)* ")"
               | FIELD "between" VALUE "and" VALUE
    FIELD      = "key" | "id" | "camera" | "modality" | "time" | "payload" ("." NAME)+

``between`` includes both ends. A field is compared with these values:

* ``key``: whole numbers, or text in quotes. It has no order: ``==``, ``!=`` and ``in`` only.
* ``id`` (the person; -1 is unknown) and ``camera``: whole numbers.
* ``modality``: ``visible`` or ``infrared``. It has no order, either.
* ``time``: seconds since 1970, or a date such as ``2026-11-28``, ``2026-11-28T14:00`` or
  ``2026-11-28T14:00:30+01:00``; UTC without a zone.
* ``payload``: numbers, text in quotes, ``true`` or ``false``. A name with other characters than
  letters, digits, ``_`` and ``-`` stands in quotes: ``payload."site name"``.

What an image does not have compares as false: ``payload.site == "gate"`` leaves out images without
a site, ``payload.site != "gate"`` and ``not payload.site == "gate"`` keep them. A number never
equals a text, nor ``true`` a number; between those, ``<`` is false.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal, NoReturn, TypeAlias

from mixer_plugin.errors import MixERTypeError, MixERValueError, closest
from mixer_plugin.features import Modality

Value: TypeAlias = bool | int | float | str
Operator: TypeAlias = Literal["<", "<=", ">", ">="]

FIELDS = ("key", "id", "camera", "modality", "time", "payload")
_MODALITIES = {side.name.lower(): int(side) for side in Modality}
_DATE = r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"
_TOKEN = re.compile(
    r"\s*(?:(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')"
    rf"|(?P<date>{_DATE}(?![\w:.]))"
    r"|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<sign>==|!=|<=|>=|<|>|[(),.])"
    r"|(?P<word>[^\W\d][\w-]*))"
)
_DEEPEST = 100  # parentheses and `not` within each other: Python's own stack ends later


@dataclass(frozen=True)
class OneOf:
    """The field equals one of the values.

    Attributes:
        field: ``key``, ``id``, ``camera``, ``modality``, ``time`` or ``payload``.
        values: At least one; modalities as 0 and 1, times as seconds.
        path: Of ``payload`` the names down to the value, else empty.
    """

    field: str
    values: tuple[Value, ...]
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compare:
    """The field is before or after the value: ``id``, ``camera``, ``time`` or ``payload``.

    Attributes:
        field: As of ``OneOf``.
        operator: ``<``, ``<=``, ``>`` or ``>=``.
        value: A number, or a text of ``payload``.
        path: As of ``OneOf``.
    """

    field: str
    operator: Operator
    value: float | str
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Not:
    """What the part leaves out."""

    part: Expression


@dataclass(frozen=True)
class And:
    """What all parts keep."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Or:
    """What any part keeps."""

    parts: tuple[Expression, ...]


Expression: TypeAlias = OneOf | Compare | Not | And | Or


def parse_filter(text: str | Expression) -> Expression:
    """The expression of a filter: ``==`` and ``in`` as ``OneOf``, ``between`` as two ``Compare``.

    An expression is returned as it is.

    Raises:
        MixERTypeError: Neither a string nor an expression.
        MixERValueError: Not a filter; the message points at the place.
    """
    if isinstance(text, (OneOf, Compare, Not, And, Or)):
        return text
    if not isinstance(text, str):
        raise MixERTypeError(f"A filter must be a string, got {type(text).__name__}.")
    parser = _Parser(text)
    found = parser.either()
    if parser.kind != "end":
        parser.fail("Expected `and`, `or` or the end")
    return found


def parse_field(text: str) -> tuple[str, tuple[str, ...]]:
    """A field alone, such as ``id`` or ``payload.site``: its name, and the names below payload.

    Raises:
        MixERTypeError: Not a string.
        MixERValueError: Not a field; the message points at the place.
    """
    if not isinstance(text, str):
        raise MixERTypeError(f"A field must be a string, got {type(text).__name__}.")
    parser = _Parser(text)
    found = parser.field()
    if parser.kind != "end":
        parser.fail("Expected one field and nothing more")
    return found


def parse_time(text: str) -> float:
    """Seconds since 1970 of a number or a date as filters have it; UTC without a zone.

    Raises:
        MixERValueError: Neither.
    """
    try:
        return _seconds(text)
    except ValueError as error:
        raise MixERValueError(
            f"{text!r} is no time; expected seconds since 1970 or a date such as 2026-11-28T14:00."
        ) from error


def _seconds(text: str) -> float:
    if re.fullmatch(_DATE, text):
        # Python 3.10 reads neither Z nor a zone without a colon.
        plain = re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text.replace("Z", "+00:00"))
        plain = re.sub(r"\.(\d+)", lambda part: f".{part[1]:0<6.6}", plain)
        moment = datetime.fromisoformat(plain)
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    seconds = float(text)
    if not math.isfinite(seconds):
        raise ValueError(text)
    return seconds


class _Parser:
    """Reads a text from left to right; ``kind`` and ``word`` are those of the token ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.start = self.end = self.depth = 0
        self.kind = self.word = ""
        self.advance()

    def advance(self) -> str:
        """Steps over the token ahead and returns it."""
        passed, rest = self.word, self.text[self.end :]
        match = _TOKEN.match(self.text, self.end)
        if match is not None:
            self.kind = match.lastgroup or ""
            self.word = match[self.kind]
            self.start, self.end = match.start(self.kind), match.end()
        else:
            self.start = len(self.text) - len(rest.lstrip())
            if rest.strip():
                self.kind = "unknown"
                hint = "; `==` compares" if self.text[self.start] == "=" else ""
                hint = hint or ("; a text needs a second quote" if rest.strip()[0] in "\"'" else "")
                self.fail(f"{self.text[self.start]!r} begins no part of a filter{hint}")
            self.kind, self.word, self.start = "end", "", len(self.text)
        return passed

    def fail(self, message: str, hint: str = "") -> NoReturn:
        """Raises an error that points at the token ahead."""
        line = re.sub(r"\s", " ", self.text)
        first = max(0, self.start - 60)
        got = "" if self.kind == "unknown" else f", got {self.word or 'nothing more'}"
        raise MixERValueError(
            f"{message}{got} at character {self.start + 1} of the filter.{hint}\n"
            f"  {line[first : first + 76]}\n  {' ' * (self.start - first)}^"
        )

    def at(self, *words: str) -> bool:
        """Whether the token ahead is one of these words or signs; quoted text is neither."""
        return self.kind in ("word", "sign") and self.word in words

    def expect(self, sign: str) -> None:
        """Steps over a word or sign that must be ahead."""
        if not self.at(sign):
            self.fail(f"Expected `{sign}`")
        self.advance()

    def either(self) -> Expression:
        """Parts joined by ``or``."""
        return self._joined("or", Or, lambda: self._joined("and", And, self.part))

    def _joined(
        self, word: str, kind: type[And] | type[Or], read: Callable[[], Expression]
    ) -> Expression:
        parts = [read()]
        while self.at(word):
            self.advance()
            parts.append(read())
        return kind(tuple(parts)) if len(parts) > 1 else parts[0]

    def part(self) -> Expression:
        """``not``, a parenthesis or a comparison."""
        self.depth += 1
        if self.depth > _DEEPEST:
            self.fail(f"More than {_DEEPEST} parentheses and `not` within each other")
        if self.at("not"):
            self.advance()
            found: Expression = Not(self.part())
        elif self.at("("):
            self.advance()
            found = self.either()
            self.expect(")")
        else:
            found = self.comparison()
        self.depth -= 1
        return found

    def comparison(self) -> Expression:
        """A field, an operator and its values."""
        field, path = self.field()
        negated = self.at("not")
        if negated:
            self.advance()
            if not self.at("in"):
                self.fail("Expected `in` after `not`")
        if self.at("in"):
            self.advance()
            self.expect("(")
            values = [self.value(field)]
            while self.at(","):
                self.advance()
                values.append(self.value(field))
            self.expect(")")
            one = OneOf(field, tuple(values), path)
            return Not(one) if negated else one
        if self.at("==", "!="):
            same = self.advance() == "=="
            one = OneOf(field, (self.value(field),), path)
            return one if same else Not(one)
        if not self.at("<", "<=", ">", ">=", "between"):
            self.fail(
                "Expected an operator", " Operators: == != < <= > >=, in (…), between … and …."
            )
        if field in ("key", "modality"):
            self.fail(f"{field} has no order; expected ==, !=, in or not in")
        sign = self.advance()
        if sign != "between":
            return Compare(field, sign, self._ordered(field), path)  # type: ignore[arg-type]
        low = self._ordered(field)
        self.expect("and")
        return And(
            (Compare(field, ">=", low, path), Compare(field, "<=", self._ordered(field), path))
        )

    def field(self) -> tuple[str, tuple[str, ...]]:
        """A field, and of ``payload`` the names down to the value."""
        if self.kind != "word":
            self.fail("Expected a field", f" Fields: {', '.join(FIELDS)}.")
        if self.word not in FIELDS:
            self.fail("Expected a field", closest(self.word, FIELDS))
        field = self.advance()
        if self.at(".") != (field == "payload"):
            self.fail(
                "Expected a dot and a name after payload"
                if field == "payload"
                else f"{field} has no parts; payload has"
            )
        names: list[str] = []
        while self.at("."):
            self.advance()
            if self.kind not in ("word", "text"):
                self.fail("Expected a name after the dot")
            names.append(_unquoted(self.word) if self.kind == "text" else self.word)
            self.advance()
        return field, tuple(names)

    def _ordered(self, field: str) -> float | str:
        if self.at("true", "false"):
            self.fail("true and false have no order; expected a number or a text in quotes")
        value = self.value(field)
        assert not isinstance(value, bool)
        return value

    def value(self, field: str) -> Value:
        """The value ahead, as the field has it."""
        kind, word = self.kind, self.word
        found: Value | None = None
        if field == "modality":
            found = _MODALITIES.get(_unquoted(word) if kind == "text" else word)
            expected = "visible or infrared"
        elif field == "time":
            expected = "seconds since 1970 or a date such as 2026-11-28T14:00"
            if kind in ("number", "date", "text"):
                try:
                    found = _seconds(_unquoted(word) if kind == "text" else word)
                except (ValueError, OverflowError):
                    self.fail(f"Expected {expected}")
        elif kind == "number":
            expected = "a whole number of 64 bits" if field != "payload" else "a finite number"
            found = _number(word, whole=field != "payload")
        elif field in ("key", "payload") and kind == "text":
            expected, found = "a text", _unquoted(word)
        else:
            expected = {
                "key": "a whole number or a text in quotes",
                "payload": "a number, a text in quotes, true or false",
            }.get(field, "a whole number")
            if field == "payload" and kind == "word":
                found = {"true": True, "false": False}.get(word)
        if found is None:
            quote = kind == "word" and field in ("key", "payload")
            hint = f' Write text in quotes: "{word}".' if quote else ""
            if field == "modality":
                hint = closest(word, _MODALITIES)
            self.fail(f"Expected {expected}", hint)
        self.advance()
        return found


def _number(word: str, *, whole: bool) -> int | float | None:
    """A number of at most 64 bits, or None."""
    if re.fullmatch(r"[-+]?\d+", word):
        if len(word) < 21 and -(2**63) <= int(word) < 2**63:
            return int(word)
        if whole:
            return None
    value = float(word)
    return None if whole or not math.isfinite(value) else value


def _unquoted(word: str) -> str:
    """Text without its quotes; a backslash keeps the quote or backslash after it."""
    return re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL)


def payload_leaves(payload: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Value]:
    """The values that filters compare: text, numbers, true and false, by the names down to them.

    Lists and null are no such values: nothing compares with them.
    """
    if isinstance(payload, dict):
        found: dict[tuple[str, ...], Value] = {}
        for name, value in payload.items():
            found |= payload_leaves(value, (*path, str(name)))
        return found
    return {path: payload} if isinstance(payload, (bool, int, float, str)) else {}
