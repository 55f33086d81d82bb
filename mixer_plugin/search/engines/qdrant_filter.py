"""A filter as a condition of Qdrant."""

from __future__ import annotations

from typing import Any

from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.filter_grammar import And, Compare, Expression, Not, OneOf, Value

_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def to_condition(expression: Expression, models: Any) -> Any:
    """The condition, made of ``qdrant_client.models``.

    Raises:
        MixERValueError: Text is compared by order, or a name holds a double quote.
    """
    if isinstance(expression, Not):
        return models.Filter(must_not=[to_condition(expression.part, models)])
    if isinstance(expression, Compare):
        if isinstance(expression.value, str):
            raise MixERValueError(
                f"Qdrant has no order of texts: {'.'.join((expression.field, *expression.path))} "
                f"{expression.operator} {expression.value!r}. Compare with == or in, or keep a "
                "number beside the text."
            )
        bound = {_BOUNDS[expression.operator]: expression.value}
        key = _key(expression.field, expression.path)
        return models.FieldCondition(key=key, range=models.Range(**bound))
    if isinstance(expression, OneOf):
        return _one_of(expression, models)
    parts = [to_condition(part, models) for part in expression.parts]
    both = isinstance(expression, And)
    return models.Filter(must=parts) if both else models.Filter(should=parts)


def _one_of(expression: OneOf, models: Any) -> Any:
    if expression.field == "key":
        keys = [v for v in expression.values if isinstance(v, int) and v >= 0]
        return models.HasIdCondition(has_id=keys)  # of no key: nothing
    key = _key(expression.field, expression.path)
    return models.Filter(should=[_equal(key, value, models) for value in expression.values])


def _equal(key: str, value: Value, models: Any) -> Any:
    """3 equals 3.0 in a filter, but not in a match of Qdrant: numbers take a range of floats."""
    if isinstance(value, (bool, str)) or (isinstance(value, int) and abs(value) > 2**53):
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))
    return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))


def _key(field: str, path: tuple[str, ...]) -> str:
    for name in path:
        if '"' in name:
            raise MixERValueError(f"Qdrant cannot ask for a name with a double quote: {name!r}.")
    return ".".join([field, *(f'"{name}"' for name in path)])
