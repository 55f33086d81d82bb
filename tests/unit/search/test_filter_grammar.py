from __future__ import annotations

from datetime import datetime, timezone

import pytest

from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.search.filter_grammar import (
    And,
    Compare,
    Not,
    OneOf,
    Or,
    parse_field,
    parse_filter,
    parse_time,
    payload_leaves,
)

HOUR = datetime(2026, 11, 28, 14, tzinfo=timezone.utc).timestamp()
ONE = OneOf("camera", (1,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("camera == 1", ONE),
        ("camera=-1", None),
        ("  (camera==1) ", ONE),
        ("camera in (1, -2,3)", OneOf("camera", (1, -2, 3))),
        ("camera not in (1)", Not(ONE)),
        ("camera != 1", Not(ONE)),
        ("not camera == 1", Not(ONE)),
        ("not not camera == 1", Not(Not(ONE))),
        ("modality == infrared", OneOf("modality", (1,))),
        ('modality in ("visible", infrared)', OneOf("modality", (0, 1))),
        ("id >= 3", Compare("id", ">=", 3)),
        ("key in (3, '3', \"a'b\")", OneOf("key", (3, "3", "a'b"))),
        (r'key == "a\"b\\"', OneOf("key", ('a"b\\',))),
        ("time < 1.5e3", Compare("time", "<", 1500.0)),
        (
            "time between 2026-11-28T14:00 and 2026-11-28T15:00",
            And((Compare("time", ">=", HOUR), Compare("time", "<=", HOUR + 3600))),
        ),
        ('time > "2026-11-28 14:00:00"', Compare("time", ">", HOUR)),
        ('payload.site == "gate"', OneOf("payload", ("gate",), ("site",))),
        (
            'payload."site name".in.x-1 in (1, 2.5, true, "x")',
            OneOf("payload", (1, 2.5, True, "x"), ("site name", "in", "x-1")),
        ),
        ('payload.a < "m"', Compare("payload", "<", "m", ("a",))),
        (
            "camera == 1 or id == 2 and not time > 3 or id == 4",
            Or(
                (
                    ONE,
                    And((OneOf("id", (2,)), Not(Compare("time", ">", 3.0)))),
                    OneOf("id", (4,)),
                )
            ),
        ),
        (
            "(camera == 1 or id == 2) and id == 4",
            And((Or((ONE, OneOf("id", (2,)))), OneOf("id", (4,)))),
        ),
    ],
)
def test_a_filter_is_read(text, expected):
    if expected is None:
        with pytest.raises(MixERValueError, match="`==` compares"):
            parse_filter(text)
    else:
        assert parse_filter(text) == expected
        assert hash(parse_filter(text)) == hash(expected)
        assert parse_filter(expected) is expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12.5", 12.5),
        ("1970-01-02", 86400.0),
        ("2026-11-28T14:00Z", HOUR),
        ("2026-11-28T15:00+0100", HOUR),
        ("2026-11-28T13:30-00:30", HOUR),
        ("2026-11-28T14:00:01.5", HOUR + 1.5),
        ("2026-11-28T14:00:01.123456789", HOUR + 1.123456),
    ],
)
def test_times(text, seconds):
    assert parse_time(text) == pytest.approx(seconds, abs=1e-6)
    assert parse_filter(f"time == {text}").values == (parse_time(text),)


@pytest.mark.parametrize("text", ["", "noon", "nan", "1e999", "2026-13-01"])
def test_what_is_no_time(text):
    with pytest.raises(MixERValueError, match="is no time; expected seconds since 1970"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("", "Expected a field, got nothing more", 0),
        ("camra == 1", "Did you mean 'camera'", 0),
        ("camera", "Expected an operator, got nothing more", 6),
        ("camera = 1", "`==` compares", 7),
        ("camera == x", "Expected a whole number, got x", 10),
        ("camera == 1.5", "Expected a whole number of 64 bits, got 1.5", 10),
        ("camera == 99999999999999999999", "whole number of 64 bits", 10),
        ("camera in 1", r"Expected `\(`, got 1", 10),
        ("camera in ()", "Expected a whole number", 11),
        ("camera in (1", r"Expected `\)`, got nothing more", 12),
        ("camera == 1 camera == 2", "Expected `and`, `or` or the end, got camera", 12),
        ("camera == 1)", r"Expected `and`, `or` or the end, got \)", 11),
        ("camera == 1 and", "Expected a field, got nothing more", 15),
        ("camera.x == 1", "camera has no parts", 6),
        ("camera between 1 or 2", "Expected `and`, got or", 17),
        ("camera not == 1", "Expected `in` after `not`", 11),
        ("modality == thermal", "Expected visible or infrared, got thermal", 12),
        ("modality < infrared", "modality has no order", 9),
        ("key > 3", "key has no order", 4),
        ("key == a", 'Write text in quotes: "a"', 7),
        ("payload == 1", "a dot and a name after payload", 8),
        ("payload. == 1", "Expected a name after the dot", 9),
        ("payload.site == gate", 'Write text in quotes: "gate"', 16),
        ("payload.x > true", "true and false have no order", 12),
        ("payload.x == 1e999", "a finite number", 13),
        ("time > 2026-02-30", "or a date such as", 7),
        ("payload.site == 'gate", "needs a second quote", 16),
        ("camera == 1 & id == 2", "'&' begins no part of a filter", 12),
    ],
)
def test_an_error_points_at_the_place(text, message, place):
    with pytest.raises(MixERValueError, match=message) as caught:
        parse_filter(text)
    told, shown, arrow = str(caught.value).splitlines()
    assert f"at character {place + 1} of the filter" in told
    assert shown == f"  {text}"
    assert arrow.index("^") == 2 + place


def test_deep_and_long_filters():
    assert parse_filter("(" * 90 + "camera == 1" + ")" * 90) == ONE
    with pytest.raises(MixERValueError, match="More than 100 parentheses"):
        parse_filter("(" * 5000 + "camera == 1")
    with pytest.raises(MixERValueError, match="More than 100"):
        parse_filter("not " * 5000 + "camera == 1")
    many = parse_filter(" or ".join(["camera == 1"] * 5000))
    assert many == Or((ONE,) * 5000)
    with pytest.raises(MixERTypeError, match="must be a string, got int"):
        parse_filter(3)


def test_the_values_of_a_payload():
    payload = {"a": 1, "b": {"c": "x", "d": [1], "e": None}, "f": True, "g": {}}
    assert payload_leaves(payload) == {("a",): 1, ("b", "c"): "x", ("f",): True}


def test_a_field_alone():
    assert parse_field("id") == ("id", ())
    assert parse_field(' payload."a b".c ') == ("payload", ("a b", "c"))
    for text, message in [
        ("idd", "Did you mean 'id'"),
        ("payload", "a dot and a name after payload"),
        ("id == 3", "one field and nothing more, got == at character 4"),
    ]:
        with pytest.raises(MixERValueError, match=message):
            parse_field(text)
    with pytest.raises(MixERTypeError):
        parse_field(None)
