"""Options: every value is checked against the type of its field, whatever it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.options import OptionTypeError, build, check_options, option


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = option(0.1, above=0)
    place: Path | None = None

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    seeds: tuple[int, ...] = option(minimum=0, maximum=9)
    size: tuple[int, int] | None = option((2, 3), noun="pixels", minimum=1)
    flag: bool = False
    way: Literal["up", "down"] = "up"
    kind: str = option("a", choices=("a", "b"))
    either: int | str = 0
    steps: list[float] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)
    more: Mapping[str, Inner] = field(default_factory=dict)
    free: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self)
        assert len(self.seeds) < 5  # a value of another type would break here


def outer(text: str) -> Outer:
    return build(Outer, {"name": "n", "seeds": [1], **yaml.safe_load(text)}, "run")


def test_values_become_what_their_fields_are():
    found = outer(
        "{seeds: [1, 2], size: [4, 5], inner: {rate: 1e-3, place: a/b}, steps: [1, 2E5, .5e1],"
        " more: {x: {rate: 2}}, either: x, free: {a: [1, x]}, way: down}"
    )
    assert (found.seeds, found.size, found.either) == ((1, 2), (4, 5), "x")
    assert found.inner == Inner(rate=0.001, place=Path("a/b"))
    assert found.steps == [1, 2e5, 5.0]
    assert found.more == {"x": Inner(rate=2)}
    assert found.free == {"a": [1, "x"]}
    assert outer("{size: ~}").size is None
    assert Inner(rate="2e-1").rate == 0.2
    assert type(Inner(rate=2).rate) is int  # a number stays what it was


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{name: 5}", "run.name is 5; expected a string."),
        ("{name: ~}", "run.name is None; expected a string."),
        ("{name: 2024-01-01}", "run.name is datetime.date"),
        ("{size: 32}", "run.size is 32; expected 2 values, each pixels >= 1, or none."),
        ("{size: 32x16}", "run.size is '32x16'; expected 2 values"),
        ("{size: [1, 2, 3]}", "run.size is .1, 2, 3.; expected 2 values"),
        ("{size: {1: 2}}", "run.size is {1: 2}; expected 2 values"),
        ("{size: [0, 0]}", ">= 1"),
        ("{seeds: [true]}", "expected values, each a whole number in .0, 9."),
        ("{seeds: ['1']}", "expected values, each a whole number"),
        ("{seeds: [1.0]}", "expected values, each a whole number"),
        ("{seeds: [10]}", "run.seeds is .10.; expected"),
        ("{either: 99999999999999999999}", "of at most 64 bits"),
        ("{flag: 'false'}", "run.flag is 'false'; expected true or false."),
        ("{flag: 0}", "run.flag is 0; expected true or false."),
        ("{flag: ~}", "run.flag is None"),
        ("{way: dwon}", "run.way is 'dwon'. Did you mean 'down'"),
        ("{kind: [a]}", "run.kind is .'a'.. Options: a, b"),
        ("{either: 1.5}", "expected a whole number or a string."),
        ("{steps: 1}", "run.steps is 1; expected values, each a number."),
        ("{steps: [.nan]}", "run.steps is .nan."),
        ("{inner: 5}", "run.inner is 5; expected `key: value` lines."),
        ("{inner: {rate: .inf}}", "run.inner.rate is inf; expected a number > 0."),
        ("{inner: {rate: '0.5'}}", "run.inner.rate is '0.5'; expected a number > 0."),
        ("{inner: {rate: 1e}}", "run.inner.rate is '1e'"),
        ("{inner: {rate: -1e-3}}", "run.inner.rate is '-1e-3'; expected a number > 0."),
        ("{inner: {rate: 1e999}}", "run.inner.rate is '1e999'"),
        ("{inner: {rote: 1}}", "Unknown key 'rote' in run.inner. Did you mean 'rate'"),
        ("{inner: {place: 5}}", "run.inner.place is 5; expected a path, or none."),
        ("{more: {x: {rate: no}}}", "run.more.x.rate is False"),
        ("{more: {1: {}}}", "run.more has the key 1; expected a string."),
        ("{more: [x]}", "run.more is .'x'.; expected `key: value` lines."),
        ("{naem: x}", "Unknown key 'naem' in run. Did you mean 'name'"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(text: str, said: str):
    with pytest.raises(MixERValueError, match=said) as caught:
        outer(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_long_values_are_cut_and_missing_ones_named():
    with pytest.raises(OptionTypeError) as caught:
        outer("{name: [" + "x, " * 5000 + "]}")
    assert len(str(caught.value)) < 200
    with pytest.raises(OptionTypeError, match="too many digits"):
        build(Inner, {"place": [10**5000]}, "")
    with pytest.raises(MixERValueError, match=r"^seeds is missing"):
        build(Outer, {"name": "x"}, "")
    with pytest.raises(OptionTypeError, match="Outer is 5"):
        build(Outer, 5, "")
    with pytest.raises(OptionTypeError, match="flag is 1"):
        Outer(name="x", seeds=(1,), flag=1)
