"""What :class:`GenericAdapter` is given: checked, and written out again as a line of code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mixer_plugin.adapters.base import Tap
from mixer_plugin.adapters.generic.pooling import POOLINGS
from mixer_plugin.errors import MixERValueError, check_name

LOSSES = ("loop", "forward")
TERMS = ("identity", "center_cluster")


def tap_of(place: str, clone: bool) -> Tap:
    """The tap of ``path``, ``path:output`` or ``path:input``.

    Raises:
        MixERValueError: for another side.
    """
    path, _, side = place.partition(":")
    if side not in ("", "input", "output"):
        raise MixERValueError(
            f"The embedding {place!r} has the side {side!r}; expected path:input or path:output."
        )
    return Tap(path, side or "output", clone)


def checked_losses(loss: str, base_losses: Iterable[str]) -> tuple[str, frozenset[str]]:
    """Where the loss is added, and the terms that the base has already.

    Raises:
        MixERValueError: for an unknown one.
    """
    check_name("loss", loss, LOSSES)
    terms = (base_losses,) if isinstance(base_losses, str) else tuple(base_losses)
    for term in terms:
        check_name("base loss", term, TERMS)
    return loss, frozenset(terms)


class Word(str):
    """A word of code that is written as it stands."""

    __slots__ = ()


def line_of(function: Callable[..., Any], values: Mapping[str, Any]) -> str:
    """``GenericAdapter(…)`` with the arguments that are not at their defaults.

    Args:
        function: whose parameters they are.
        values: by name; what is left out is at its default.
    """
    shown = []
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        default = parameter.default
        value = values.get(name, default)
        if name == "stage" or (name == "embedding" and value is not None):
            shown.append(_written(value))
        elif type(value) is not type(default) or value != default:
            shown.append(f"{name}={_written(value)}")
    return f"GenericAdapter({', '.join(shown)})"


def _written(value: Any) -> str:
    if value in POOLINGS.values():
        return str(value.__name__)
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(_written, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value)
