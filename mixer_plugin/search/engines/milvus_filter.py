"""A filter as an expression of Milvus.

``not`` is carried down to the comparisons: not every Milvus takes it in front of a parenthesis. The
field ``kinds`` says which of ``number``, ``text`` and ``bool`` each value of a payload is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mixer_plugin.search.filter_grammar import And, Compare, Expression, Not, OneOf, Value

_NOTHING, _EVERYTHING = "key < 0", "key >= 0"
_FIELDS = {"id": "person"}  # pymilvus calls the primary key id, whatever its name is
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def to_milvus(expression: Expression, *, negated: bool = False) -> str:
    """The text of the expression, or of its opposite."""
    if isinstance(expression, Not):
        return to_milvus(expression.part, negated=not negated)
    if isinstance(expression, OneOf):
        return f"({_one_of(expression, negated)})"
    if isinstance(expression, Compare):
        return f"({_compare(expression, negated)})"
    word = " and " if isinstance(expression, And) != negated else " or "
    return f"({word.join(to_milvus(part, negated=negated) for part in expression.parts)})"


def kinds(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The kind of each value of a payload, under the same names."""
    return {
        name: kinds(value) if isinstance(value, Mapping) else _kind(value)
        for name, value in payload.items()
    }


def _one_of(expression: OneOf, negated: bool) -> str:
    name = _name(expression)
    if expression.field == "payload":
        sign, word = ("!=", " and ") if negated else ("==", " or ")
        return word.join(f"{name} {sign} {json.dumps(each)}" for each in expression.values)
    values = [_number(v, expression) for v in expression.values if not isinstance(v, str)]
    if not values:
        return _EVERYTHING if negated else _NOTHING
    word = "not in" if negated else "in"
    return _timed(expression, f"{name} {word} [{', '.join(values)}]", negated)


def _compare(expression: Compare, negated: bool) -> str:
    name = _name(expression)
    sign = _OPPOSITE[expression.operator] if negated else expression.operator
    text = f"{name} {sign} {_number(expression.value, expression)}"
    if expression.field == "payload" and negated:  # what cannot be compared is kept
        kind = json.dumps(_kind(expression.value))
        return f"{text} or kinds{_places(expression)} != {kind}"
    return _timed(expression, text, negated)


def _timed(expression: OneOf | Compare, text: str, negated: bool) -> str:
    if expression.field != "time":
        return text
    return f"timed == false or {text}" if negated else f"timed == true and {text}"


def _name(expression: OneOf | Compare) -> str:
    return _FIELDS.get(expression.field, expression.field) + _places(expression)


def _places(expression: OneOf | Compare) -> str:
    return "".join(f"[{json.dumps(part)}]" for part in expression.path)


def _number(value: Value, expression: OneOf | Compare) -> str:
    return repr(float(value)) if expression.field == "time" else json.dumps(value)


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "bool"
    return "text" if isinstance(value, str) else "number"
