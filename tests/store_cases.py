"""A gallery as a list, changed and searched literally, for the tests of the store."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import torch

from mixer_plugin import FeatureSet, scores
from mixer_plugin.search.filter_grammar import And, Compare, Not, OneOf, payload_leaves

ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Item:
    """An image of the literal gallery."""

    key: Any
    image: FeatureSet
    time: float | None = None
    payload: dict | None = None


@dataclass
class Literal:
    """The images in the order of adding."""

    items: list[Item] = field(default_factory=list)

    def add(self, features, keys, times=None, payloads=None):
        keys = list(keys)
        self.remove([key for key in keys if any(key == item.key for item in self.items)])
        for i, key in enumerate(keys):
            self.items.append(
                Item(
                    key,
                    features[i : i + 1],
                    None if times is None else times[i],
                    None if payloads is None else payloads[i],
                )
            )

    def remove(self, keys):
        self.items = [item for item in self.items if item.key not in set(keys)]

    def copy(self):
        return Literal(list(self.items))

    def search(self, query, rule="mixer", expression=None, threshold=None, group=None):
        """For each query the pairs (score, key), best first, equal scores in order."""
        kept = [item for item in self.items if expression is None or passes(expression, item)]
        if not kept:
            return [[] for _ in range(len(query))]
        matrix = scores(query, FeatureSet.concatenate([item.image for item in kept]), rule)
        result = []
        for line in matrix.tolist():
            order = sorted(range(len(kept)), key=lambda j: (-line[j], j))
            pairs, seen = [], set()
            for j in order:
                name = None if group is None else group(kept[j])
                if (threshold is None or line[j] >= threshold) and name not in seen:
                    pairs.append((line[j], kept[j].key))
                    seen |= set() if name is None else {name}
            result.append(pairs)
        return result


def passes(expression, item):
    """Whether a filter keeps an image, by its definition."""
    if isinstance(expression, Not):
        return not passes(expression.part, item)
    if isinstance(expression, (OneOf, Compare)):
        image = item.image
        value = {
            "key": item.key,
            "id": int(image.ids[0]),
            "camera": int(image.cams[0]),
            "modality": int(image.modality[0]),
            "time": item.time,
            "payload": payload_leaves(item.payload).get(expression.path),
        }[expression.field]
        if isinstance(expression, OneOf):
            return any(kind(value) == kind(each) and value == each for each in expression.values)
        right = expression.value
        same = kind(value) == kind(right) in ("number", "text")
        return same and ORDERS[expression.operator](value, right)
    join = all if isinstance(expression, And) else any
    return join(passes(part, item) for part in expression.parts)


def kind(value):
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "missing"
    if isinstance(value, bool):
        return "bool"
    return "text" if isinstance(value, str) else "number"


def check(hits, expected, k, atol=2e-6):
    """Scores to ``atol``, and keys wherever scores differ by more."""
    assert hits.scores.shape == (len(expected), k)
    for i, line in enumerate(expected):
        count = min(k, len(line))
        assert hits.keys[i][count:] == (None,) * (k - count)
        assert (hits.scores[i, count:] == -torch.inf).all()
        known = {key: score for score, key in line}
        found = hits.keys[i][:count]
        assert len(set(found)) == count
        for rank, key in enumerate(found):
            assert abs(known[key] - line[rank][0]) <= atol
            assert abs(float(hits.scores[i, rank]) - line[rank][0]) <= atol
    return hits
