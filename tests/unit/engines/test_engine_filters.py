"""Every filter keeps, in each engine, what the language says: against its literal meaning."""

from __future__ import annotations

import operator

import pytest

from mixer_plugin.errors import MixERValueError
from mixer_plugin.search.engines import EngineGallery, QdrantEngine
from mixer_plugin.search.filter_grammar import And, Compare, Not, OneOf, Or, parse_filter
from tests.search_cases import make

COUNT = 48
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
FILTERS = [
    "key in (3, 4, 999)",
    "key == -5 or key == 7",
    'key == "seven"',
    "not key in (1, 2)",
    "id >= 3 and id != 4",
    "camera in (1, 3)",
    "camera > 1 and camera <= 3",
    "modality == infrared",
    "not (modality == infrared or camera == 2)",
    "time >= 10 and time < 1970-01-01T00:00:20",
    "not time < 10",
    "time in (3, 4.5, 9)",
    "time between 5 and 9",
    'payload.site == "gate"',
    'payload.site != "gate"',
    'payload.site in ("hall", "gate")',
    'not (payload.site == "gate" or payload.site == "hall")',
    "payload.number == 3",
    "payload.number == 3.5",
    "payload.number > 2 and payload.number <= 5",
    "not payload.number > 2",
    "payload.number == true",
    "payload.open == true",
    "payload.open != false",
    "payload.open == 1",
    "payload.gate.lane == 2",
    'payload."site name" == "a \\"b\\" \\\\ c"',
    "payload.nothing == 1",
    "payload.number not in (1, 2)",
]


def payload(row):
    given = {"open": row % 3 == 0}
    if row % 4 < 3:
        given["site"] = ["gate", "hall", 5][row % 4]
    given["number"] = [row % 6, row % 6 + 0.5, float(row % 6), "3", True][row % 5]
    given["site name"] = 'a "b" \\ c' if row % 2 else "other"
    if row % 7 == 0:
        given = {"gate": {"lane": row % 3}}
    return given


def leaf(row, features, times, part):
    """The value that a comparison looks at; None: there is none."""
    if part.field == "payload":
        value = payload(row)
        for name in part.path:
            value = value.get(name) if isinstance(value, dict) else None
        return None if isinstance(value, dict) else value
    return {
        "key": row,
        "id": int(features.ids[row]),
        "camera": int(features.cams[row]),
        "modality": int(features.modality[row]),
        "time": times[row],
    }[part.field]


def kind(value):
    return float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)


def keeps(part, row, features, times):
    if isinstance(part, Not):
        return not keeps(part.part, row, features, times)
    if isinstance(part, (And, Or)):
        each = [keeps(one, row, features, times) for one in part.parts]
        return all(each) if isinstance(part, And) else any(each)
    value = leaf(row, features, times, part)
    if isinstance(part, Compare):
        return kind(value) is kind(part.value) and SIGNS[part.operator](value, part.value)
    assert isinstance(part, OneOf)
    return any(kind(value) is kind(one) and value == one for one in part.values)


def test_filters_keep_what_the_language_says(new_engine):
    features = make(COUNT)
    times = [None if row % 5 == 0 else row / 2 for row in range(COUNT)]
    payloads = [payload(row) for row in range(COUNT)]
    made = EngineGallery.create(new_engine(), features, times=times, payloads=payloads)
    wrong = {}
    for text in FILTERS:
        expression = parse_filter(text)
        wanted = {row for row in range(COUNT) if keeps(expression, row, features, times)}
        found = made.search(features[:1], COUNT, filter=text).keys[0]
        if {*found.tolist()} - {-1} != wanted or made.count(text) != len(wanted):
            wrong[text] = ({*found.tolist()} - {-1}) ^ wanted
    assert not wrong


def test_the_order_of_texts_is_milvus_only(new_engine):
    payloads = [{"site": name} for name in ("a", "b", "c", "d")]
    made = EngineGallery.create(new_engine(), make(4), payloads=payloads)
    if isinstance(made.engine, QdrantEngine):
        with pytest.raises(MixERValueError, match="Qdrant has no order of texts"):
            made.count('payload.site < "c"')
        with pytest.raises(MixERValueError, match="a name with a double quote"):
            made.count("payload.'a\"b' == 1")
    else:
        assert made.count('payload.site < "c"') == 2
