"""Adds a loss to what a training forward returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mixer_plugin.errors import MixERTypeError


def add_to_output(output: Any, total: Tensor, terms: Mapping[str, Tensor]) -> Any:
    """The output with ``total`` added to its loss, and ``terms`` to the mapping beside it.

    Args:
        output: a scalar; a tuple or list whose first entry is one; or a mapping with ``loss``. The
            first mapping in a tuple is taken for the metrics.
        total: scalar with gradient.
        terms: detached scalars by name; left out where the output has no mapping.

    Raises:
        MixERTypeError: for an output of another form.
    """
    if _is_scalar(output):
        return output + total
    if isinstance(output, Mapping) and _is_scalar(output.get("loss")):
        return {**output, "loss": output["loss"] + total, **terms}
    if isinstance(output, (tuple, list)) and output and _is_scalar(output[0]):
        rest = list(output[1:])
        for i, value in enumerate(rest):
            if isinstance(value, Mapping):
                rest[i] = {**value, **terms}
                break
        values = [output[0] + total, *rest]
        return values if isinstance(output, list) else _like(output, values)
    raise MixERTypeError(
        'With loss="forward" the training forward returns its loss: a scalar, first in a tuple, or '
        f"as 'loss' in a mapping; got {_form(output)}. Use loss=\"loop\" and add mixer_loss in the "
        "loop."
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.dim() <= 1


def _like(output: tuple[Any, ...], values: list[Any]) -> tuple[Any, ...]:
    """A tuple, or the named tuple that the output is."""
    named = getattr(type(output), "_make", None)
    return tuple(values) if named is None else named(values)


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {', '.join(_form(v) for v in value) or 'nothing'}"
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(str, value))}"
    return type(value).__name__
