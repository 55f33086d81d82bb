"""What every module of a network takes and gives in one evaluation."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mixer_plugin.conformance.inspection.ways import Way, evaluate
from mixer_plugin.conformance.reading import draw_norms


@dataclass(frozen=True)
class Visit:
    """One call of a module.

    Attributes:
        path: of the module.
        module: itself.
        taken: its first argument.
        given: its output.
        small: copies of both, made at once, where they are features: the model may write into them.
    """

    path: str
    module: nn.Module
    taken: Tensor
    given: Tensor
    small: tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Watched:
    """An evaluation of a copy of a network whose norms differ from the identity.

    Attributes:
        model: the copy.
        visits: calls of its modules, in the order in which they ended.
        outputs: what the forward returned, [B, D] each.
    """

    model: nn.Module
    visits: list[Visit]
    outputs: list[Tensor]


def watch(model: nn.Module, way: Way) -> Watched:
    """Evaluates visible images on a copy of a bare network, and keeps what its modules saw.

    The norms of a network that was not trained yet change nothing, so that features before and
    after a neck could not be told apart: those of the copy are drawn at random.
    """
    twin = copy.deepcopy(model)
    draw_norms(twin)
    visits: list[Visit] = []
    with contextlib.ExitStack() as stack:
        for path, module in twin.named_modules():
            if path:
                before, after = _hooks(path, visits)
                handle = module.register_forward_pre_hook(before, with_kwargs=True)
                stack.callback(handle.remove)
                stack.callback(module.register_forward_hook(after).remove)
        output = evaluate(twin, way, 0)
    rows = [v for v in tree_leaves(output) if isinstance(v, Tensor) and v.is_floating_point()]
    return Watched(twin, visits, [v.flatten(1) for v in rows if v.dim() in (2, 4)])


def _hooks(path: str, visits: list[Visit]) -> tuple[Callable[..., None], Callable[..., None]]:
    entered: list[tuple[Any, Tensor | None]] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taken = args[0] if args else next(iter(kwargs.values()), None)
        entered.append((taken, _copied(taken)))

    def after(module: nn.Module, _: tuple[Any, ...], given: Any) -> None:
        taken, small = entered.pop()
        if isinstance(taken, Tensor) and isinstance(given, Tensor):
            visits.append(Visit(path, module, taken, given, (small, _copied(given))))

    return before, after


def _copied(value: Any) -> Tensor | None:
    return value.clone() if isinstance(value, Tensor) and is_feature(value) else None


def is_feature(value: Tensor) -> bool:
    """Whether a tensor holds one feature per row: [B, D] or [B, D, 1, 1]."""
    one_place = value.dim() == 4 and value.shape[2:] == (1, 1)
    return value.is_floating_point() and (value.dim() == 2 or one_place) and value.shape[1] > 1


def is_map(value: Tensor) -> bool:
    """Whether a tensor holds several places per row: [B, D, H, W] or tokens [B, T, D]."""
    return value.is_floating_point() and value.dim() in (3, 4) and not is_feature(value)
