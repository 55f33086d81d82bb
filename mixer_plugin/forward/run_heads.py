"""Reads the inputs of the related heads from the base's forward and runs the heads."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from mixer_plugin.distributed.sync_batchnorm import rows_of_norms
from mixer_plugin.forward.record import Record
from mixer_plugin.heads import BesideBase, private_random

if TYPE_CHECKING:
    from mixer_plugin.adapters import Adapter, Tap


def read_taps(
    adapter: Adapter, values: Mapping[str, list[Any]], taps: Mapping[str, Tap]
) -> dict[str, Any]:
    """The tensors that the adapter reads from its taps, and the stage's output in the same way.

    What an adapter makes of several calls of the stage, or of a part of its rows, holds at both
    ends of the stage.
    """
    own = {name: calls for name, calls in values.items() if name != "stage_output"}
    found = adapter.read(own, taps)
    if "stage_output" in values:
        swapped = {**own, "stage_input": values["stage_output"]}
        places = {**taps, "stage_input": taps["stage_output"]}
        found["stage_output"] = adapter.read(swapped, places)["stage_input"]
    return found


def run_heads(
    model: nn.Module,
    record: Record,
    heads: nn.ModuleDict,
    *,
    adapter: Adapter,
    training: bool,
    seed: int | None,
) -> tuple[Record, bool]:
    """Runs the related heads on a record.

    Args:
        model: the wrapped model, whose pooling is used.
        record: with its modality and step.
        heads: ``visible`` and ``infrared``, or ``shared``.
        adapter: the adapter of the model.
        training: whether norms take their statistics from the batch.
        seed: of the heads' own random numbers, with the record's step; None: they draw none, and a
            compiler may trace them.

    Returns:
        The record with related features, and whether the heads have drawn random numbers.
    """
    assert record.modality is not None
    x, modality = record.stage_input, record.modality
    parts = {
        "visible": (modality == 0).nonzero().flatten(),
        "infrared": (modality == 1).nonzero().flatten(),
    }
    if "shared" in heads:
        parts = {"shared": torch.arange(len(x), device=x.device)}
    sizes = [len(rows) for rows in parts.values()]
    if training:
        sizes = rows_of_norms(heads, sizes, x.device)
    numbered = enumerate(zip(parts.items(), sizes, strict=True))
    present = [(m, name, rows, size) for m, ((name, rows), size) in numbered if size]
    arguments = (model, record, heads, adapter, present)
    drew = False
    if seed is None:
        pooled, matched = _pooled_and_matched(*arguments)
    else:
        # Decorating at import would load the compiler with the package.
        apart = torch.compiler.disable(_on_own_random_numbers)  # type: ignore[no-untyped-call]
        pooled, matched, drew = apart(seed, *arguments)
    complete = dataclasses.replace(
        record,
        related_before=pooled,
        related_after=matched,
        idle=tuple(heads[name] for name, size in zip(parts, sizes, strict=True) if not size),
    )
    return complete, drew


def _pooled_and_matched(
    model: nn.Module,
    record: Record,
    heads: nn.ModuleDict,
    adapter: Adapter,
    present: list[tuple[int, str, Tensor, int]],
) -> tuple[Tensor, Tensor]:
    """Each present modality's rows through its head; the rows in batch order again."""
    back = torch.cat([rows for _, _, rows, _ in present]).argsort()
    dtype = next(heads.parameters()).dtype
    x, base_map = (_as_heads(value, dtype) for value in (record.stage_input, record.stage_output))
    maps, matched = [], []
    for m, name, rows, size in present:
        head: Any = heads[name]
        with head.batch_of(size):
            beside = None if base_map is None else base_map.index_select(0, rows)
            maps.append(_map_of(head, adapter, x.index_select(0, rows), beside, m))
    related_map = torch.cat(maps).index_select(0, back)
    pooled = adapter.pool(model, related_map, **record.pooling)
    for _, name, rows, size in present:
        head = heads[name]
        with head.batch_of(size):
            matched.append(head.norm(pooled.index_select(0, rows)))
    return pooled, torch.cat(matched).index_select(0, back)


def related_of_all(
    model: nn.Module,
    record: Record,
    heads: nn.ModuleDict,
    *,
    adapter: Adapter,
    modality: Tensor | int,
) -> Tensor:
    """The related feature after its neck, [B, Dr], by a graph that fits any mixture of modalities.

    :func:`run_heads` gives each head its rows, whose number depends on values; a graph of fixed
    operations cannot. Here each head runs on all rows, and of the results each row keeps its own.

    Args:
        model: the wrapped model, in eval mode, whose pooling is used.
        record: of a forward; its modality is not read.
        heads: ``visible`` and ``infrared``, or ``shared``.
        adapter: the adapter of the model.
        modality: [B] int64 (0 visible, 1 infrared), or the one of all rows.
    """
    every: list[Any] = list(heads.values())
    sides = [0] if len(every) == 1 else [0, 1] if isinstance(modality, Tensor) else [modality]
    dtype = next(heads.parameters()).dtype
    x, base_map = (_as_heads(value, dtype) for value in (record.stage_input, record.stage_output))
    maps = [_map_of(every[m], adapter, x, base_map, m) for m in sides]
    pooled = adapter.pool(model, _own_of(maps, modality), **record.pooling)
    return _own_of([every[m].norm(pooled) for m in sides], modality)


def _own_of(values: list[Tensor], modality: Tensor | int) -> Tensor:
    """Of a value [B, …] for each modality, or a single one, each row's own."""
    if len(values) == 1 or not isinstance(modality, Tensor):
        return values[0]
    visible, infrared = values
    return torch.where(modality.reshape(-1, *[1] * (visible.dim() - 1)) == 1, infrared, visible)


def _map_of(head: Any, adapter: Adapter, x: Tensor, base_map: Tensor | None, m: int) -> Tensor:
    """The related map of rows of one modality."""
    for part in head.parts():
        beside = isinstance(part, BesideBase)
        x = part(x, base_map) if beside else adapter.run_stage(part, x, m)
    return x


def _as_heads(value: Any, dtype: torch.dtype) -> Any:
    """A loop that gives the modality after its autocast block left a half-precision map."""
    if value is None or torch.is_autocast_enabled(value.device.type):
        return value
    return value.to(dtype)


def _on_own_random_numbers(
    seed: int, model: nn.Module, record: Record, *arguments: Any
) -> tuple[Tensor, Tensor, bool]:
    assert record.step is not None
    device, seed = record.stage_input.device, seed + int(record.step)
    with private_random(device, seed) as drew:
        pooled, matched = _pooled_and_matched(model, record, *arguments)
        drawn = drew()
    _run_backward_apart((pooled, matched), record.base_nodes, lambda: private_random(device, seed))
    return pooled, matched, drawn


def _run_backward_apart(
    related: tuple[Tensor, ...],
    base_nodes: tuple[Node, ...],
    private: Callable[[], AbstractContextManager[object]],
) -> None:
    """Lets the backward of the heads run in a context: a stage may draw numbers there, too.

    Of the nodes that are ready, autograd runs the youngest first: those of the heads, which ran
    last, and only then the base's, whose first one ends the context.
    """
    opened = contextlib.ExitStack()

    def enter(_: object) -> None:
        opened.close()
        opened.enter_context(private())
        torch.autograd.Variable._execution_engine.queue_callback(opened.close)

    def leave(_: object) -> None:
        opened.close()

    for value in related:
        if value.grad_fn is not None:
            value.grad_fn.register_prehook(enter)
    for node in base_nodes:
        node.register_prehook(leave)
