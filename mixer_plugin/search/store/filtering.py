"""Which images of a state a filter keeps."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixer_plugin.search.filter_grammar import And, Compare, Expression, Not, OneOf, Value
from mixer_plugin.search.store.columns import Columns
from mixer_plugin.search.store.rows import rows_of_keys

_ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PLAIN = {"id": "ids", "camera": "cams", "modality": "modality", "time": "times"}


def kept(
    expression: Expression, columns: Columns, connection: sqlite3.Connection
) -> NDArray[np.bool_]:
    """Whether each image passes, bool [T]; keys are looked up in the same state's transaction."""
    if isinstance(expression, OneOf):
        return _one_of(expression, columns, connection)
    if isinstance(expression, Compare):
        return _compared(expression, columns)
    if isinstance(expression, Not):
        return ~kept(expression.part, columns, connection)
    join = np.logical_and if isinstance(expression, And) else np.logical_or
    result = kept(expression.parts[0], columns, connection)
    for part in expression.parts[1:]:
        join(result, kept(part, columns, connection), out=result)
    return result


def _one_of(
    expression: OneOf, columns: Columns, connection: sqlite3.Connection
) -> NDArray[np.bool_]:
    if expression.field == "key":
        wanted: list[Any] = list(dict.fromkeys(expression.values))
        rows = list(rows_of_keys(connection, wanted).values())
        result = np.zeros(len(columns), np.bool_)
        result[columns.places(np.array(rows, np.int64))] = True
        return result
    if expression.field == "payload":
        return _payload(expression.path, columns, lambda value: _among(value, expression.values))
    values = getattr(columns, _PLAIN[expression.field]).values
    return np.isin(values, np.array(expression.values, values.dtype))


def _compared(expression: Compare, columns: Columns) -> NDArray[np.bool_]:
    compare, right = _ORDERS[expression.operator], expression.value
    if expression.field != "payload":
        # NaN, an unknown time, is neither before nor after anything.
        result: NDArray[np.bool_] = compare(
            getattr(columns, _PLAIN[expression.field]).values, right
        )
        return result
    return _payload(
        expression.path,
        columns,
        lambda value: _kind(value) == _kind(right) != "bool" and compare(value, right),
    )


def _payload(
    path: tuple[str, ...], columns: Columns, test: Callable[[Value], bool]
) -> NDArray[np.bool_]:
    column = columns.payload.get(path)
    if column is None:
        return np.zeros(len(columns), np.bool_)
    # The list may grow meanwhile; the codes of this state do not reach what is new.
    passes = np.array([*map(test, list(column.values)), False])  # the last is that of code -1
    return passes[column.padded(len(columns))]


def _among(value: Value, values: tuple[Value, ...]) -> bool:
    return any(_kind(value) == _kind(each) and value == each for each in values)


def _kind(value: Value) -> str:
    """``bool``, ``number`` or ``text``: values of different kinds differ."""
    if isinstance(value, bool):
        return "bool"
    return "text" if isinstance(value, str) else "number"
