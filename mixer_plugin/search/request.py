"""What a search of a gallery asks for, checked before anything is read."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.evaluation.settings import check_settings
from mixer_plugin.search.filter_grammar import Expression, parse_field, parse_filter
from mixer_plugin.search.hits import length_of_lists
from mixer_plugin.search.keys import Key, key_list

Field = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Request:
    """What is asked for, checked; see ``make_request``.

    Attributes:
        k: Length of the lists.
        expression: Of the filter, or None.
        exclude: For each query, keys that must not come back; None: none.
        setting: Of ``evaluate``.
        threshold: The least score, or None.
        group: The field whose values are the groups, or None.
    """

    k: int
    expression: Expression | None
    exclude: tuple[tuple[Key, ...], ...] | None
    setting: str
    threshold: float | None
    group: Field | None


def make_request(
    queries: int,
    k: int,
    filter: str | Expression | None,
    exclude: Sequence[Sequence[Key]] | None,
    setting: str,
    threshold: float | None,
    group_by: str | None,
) -> Request:
    """The request of so many queries; arguments and errors as of ``GalleryStore.search``."""
    length_of_lists(k, 0)
    check_settings([setting])
    expression = None if filter is None else parse_filter(filter)
    group = None if group_by is None else parse_field(group_by)
    if group is not None and group[0] not in ("id", "payload"):
        raise MixERValueError(f"group_by must be 'id' or 'payload.NAME', got {group_by!r}.")
    if threshold is not None:
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
            raise MixERTypeError(f"threshold must be a number, got {threshold!r}.")
        if math.isnan(threshold):
            raise MixERValueError("threshold must be a number, got NaN; leave it out for all hits.")
    without = None if exclude is None else tuple(map(tuple, map(key_list, exclude)))
    if without is not None and len(without) != queries:
        raise MixERValueError(
            f"exclude must have one entry per query, {queries}; got {len(without)}."
        )
    return Request(operator.index(k), expression, without, setting, threshold, group)
