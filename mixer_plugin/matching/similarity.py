"""Cosines of blocks of queries with a gallery, and the scores that rules make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixer_plugin.features import Modality
from mixer_plugin.matching.normalized import PLAIN, Lift, UnitFeatures
from mixer_plugin.matching.rules import SOURCES, Rule
from mixer_plugin.matching.workspace import Workspace

FLAT = 1e-9
# On a CPU a tile of a wide gallery should stay in the cache while a block of queries meets it; a
# GPU wants large products.
_TILE = {"cpu": 512, "cuda": 2**16}


@dataclass(frozen=True)
class Tile:
    """Gallery columns of one modality that are multiplied at once.

    Attributes:
        modality: Of all its items.
        columns: Where they are.
        index: Its number among all tiles of the gallery, also where a process holds some of them.
    """

    modality: int
    columns: slice
    index: int


def tile(split: int, count: int, device: torch.device) -> tuple[Tile, ...]:
    """Cuts a gallery, visible items first, into tiles of at most 512 columns (GPU: 65,536).

    The product of a block of queries with a tile has the same shape, so the same rounding,
    whichever process or thread makes it. Of the ``count`` items, ``split`` are visible.
    """
    width = _TILE["cpu" if device.type == "cpu" else "cuda"]
    sides = ((Modality.VISIBLE, 0, split), (Modality.INFRARED, split, count))
    parts = [
        (int(modality), slice(start, min(start + width, end)))
        for modality, begin, end in sides
        for start in range(begin, end, width)
    ]
    return tuple(Tile(*part, index) for index, part in enumerate(parts))


def score_blocks(
    query: UnitFeatures,
    gallery: UnitFeatures,
    tiles: Sequence[Tile],
    modality: int,
    rules: dict[str, Rule],
    workspace: Workspace | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Scores of one block of queries under each rule; the rules share the products.

    Args:
        query: Q images, all of one modality.
        gallery: G images.
        tiles: All their columns, in order.
        modality: The modality of the queries.
        rules: Rules by name; for those that are standardised, both sets have their ``scaling``.
        workspace: Memory to write to: each matrix then lasts until the next is asked for.

    Yields:
        Name and float32 [Q, G]; without ``workspace`` a matrix of its own for each rule.
    """
    made = products(query, gallery, tiles, modality, rules, workspace or Workspace())
    shape = (len(query.modality), len(gallery.modality))
    *_, last = rules
    for name, rule in rules.items():
        if name == last and "erased" in made:  # nobody needs that product any more
            result = made["erased"]
        else:
            result = (workspace or Workspace()).take("scores", shape, query.parts["erased"])
        for part in tiles:
            if rule.standardised:
                _standardise(result, made, query, gallery, part, modality, rule, workspace)
                continue
            into = result[:, part.columns]
            (source, weight), *more = terms(rule, modality, part.modality)
            if weight != 1 or made[source] is not result:
                torch.mul(made[source][:, part.columns], weight, out=into)
            for source, weight in more:
                into.add_(made[source][:, part.columns], alpha=weight)
        yield name, result


def _standardise(
    result: Tensor,
    made: dict[str, Tensor],
    query: UnitFeatures,
    gallery: UnitFeatures,
    part: Tile,
    modality: int,
    rule: Rule,
    workspace: Workspace | None,
) -> None:
    """Writes a tile of a standardised rule's scores, c (a_q + a_g) - (b_q + b_g) for each source.

    The rule's lift says how much each source and pairs across count.

    Arguments as in ``score_blocks``; ``result`` may be the matrix of a source that counts first.
    """
    of_query, of_items = query.scaling, gallery.scaling
    assert of_query is not None, "standardised() comes first"
    assert of_items is not None, "standardised() comes first"
    into = result[:, part.columns]
    slopes = (workspace or Workspace()).take("slopes", into.shape, into)
    offsets = []
    lift = gallery.lifts.get(rule, PLAIN)
    for place, (source, weight) in enumerate(lifted(terms(rule, modality, part.modality), lift)):
        mine = weight * of_query[source][:, part.modality]
        theirs = weight * of_items[source][part.columns, modality]
        torch.add(mine[:, :1], theirs[:, 0], out=slopes)
        cosines = made[source][:, part.columns]
        if place:
            into.addcmul_(slopes, cosines)
        else:
            torch.mul(slopes, cosines, out=into)
        offsets.append((mine[:, 1:], theirs[:, 1]))
    for left, right in offsets:
        into.sub_(left).sub_(right)
    if part.modality != modality and lift != PLAIN:
        into.mul_(lift.slope).add_(lift.offset)


def products(
    query: UnitFeatures,
    gallery: UnitFeatures,
    tiles: Sequence[Tile],
    modality: int,
    rules: dict[str, Rule],
    workspace: Workspace,
) -> dict[str, Tensor]:
    """The cosines that the rules need, by source float32 [Q, G], undefined where none needs them.

    Arguments as in ``score_blocks``.
    """
    shape = (len(query.modality), len(gallery.modality))
    made: dict[str, Tensor] = {}
    for part in tiles:
        needed = [terms(rule, modality, part.modality) for rule in rules.values()]
        for source in dict.fromkeys(source for each in needed for source, _ in each):
            left, right = query.parts[source], gallery.parts[source][part.columns]
            if source not in made:
                made[source] = workspace.take(source, shape, left)
            with full_float32(left.device):
                torch.mm(left, right.T, out=made[source][:, part.columns])
    return made


def terms(rule: Rule, query: int, gallery: int) -> list[tuple[str, float]]:
    """The cosines of a pair that count, by source, and their weights."""
    weights = zip(SOURCES, rule.weights(query, gallery), strict=False)
    return [(source, weight) for source, weight in weights if weight]


def lifted(found: list[tuple[str, float]], lift: Lift) -> list[tuple[str, float]]:
    """``terms`` of a standardised rule with the same sum, in the proportion the lift gives."""
    means = [getattr(lift, source) for source, _ in found]
    total = sum(weight for _, weight in found)
    counted = sum(weight * mean for (_, weight), mean in zip(found, means, strict=True))
    return [
        (source, weight * mean * total / counted)
        for (source, weight), mean in zip(found, means, strict=True)
    ]


def znorm_(
    block: Tensor,
    tiles: Sequence[Tile],
    own: Tensor,
    *,
    of: int | None = None,
    total: Callable[[Tensor], Tensor] = lambda partial: partial,
) -> None:
    """Shifts and scales, in place, each row's visible and each row's infrared part by itself.

    Args:
        block: float32 [Q, G] scores.
        tiles: All its columns, in order.
        own: int64 [Q], column of the query itself, -1 where absent: outside the statistics.
        of: Number of tiles of the whole gallery, where ``tiles`` are some of them.
        total: Adds float64 [modality, tile, Q] up over the processes that hold the others.
    """
    rows = torch.arange(len(block), device=block.device)

    def over_tiles(value: Callable[[Tile], Tensor]) -> Tensor:
        # A slot for every tile there is: they are added in one order, whoever holds them.
        slots = len(tiles) if of is None else of
        partial = block.new_zeros((2, slots, len(block)), dtype=torch.float64)
        for part in tiles:
            partial[part.modality, part.index] = value(part)
        return total(partial).sum(dim=1)

    def itself(part: Tile) -> tuple[Tensor, Tensor]:
        column = own - part.columns.start
        width = part.columns.stop - part.columns.start
        return (column >= 0) & (column < width), column.clamp(0, width - 1)

    def others(values: Tensor, part: Tile) -> Tensor:
        present, column = itself(part)
        return values.sum(dim=1) - values[rows, column].where(present, 0.0)

    # float64: the statistics are then the same on every device, to the last float32 bit.
    count = over_tiles(
        lambda part: (part.columns.stop - part.columns.start) - itself(part)[0].double()
    ).clamp_(min=1)
    mean = over_tiles(lambda part: others(block[:, part.columns].double(), part)) / count

    def wide(part: Tile) -> Tensor:
        return block[:, part.columns].double() - mean[part.modality, :, None]

    variance = over_tiles(lambda part: others(wide(part).square_(), part)) / count
    # Equal scores carry no order: they become 0 rather than amplified rounding.
    deviation = variance.clamp(min=0).sqrt()
    divisor = torch.where(deviation > FLAT, deviation, torch.inf)
    for part in tiles:
        block[:, part.columns] = (wide(part) / divisor[part.modality, :, None]).float()


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Products in plain float32: TF32, bfloat16 products and autocast off, then as they were."""
    with torch.autocast(device.type, enabled=False):
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch >= 2.9
            cpu = getattr(torch.backends.mkldnn, "matmul", None)
            backends: list[Any] = [torch.backends.cuda.matmul, cpu]
            before = [backend.fp32_precision for backend in backends]
            try:
                for backend in backends:
                    backend.fp32_precision = "ieee"
                yield
            finally:
                for backend, value in zip(backends, before, strict=True):
                    backend.fp32_precision = value
        else:
            precision = torch.get_float32_matmul_precision()
            try:
                torch.set_float32_matmul_precision("highest")
                yield
            finally:
                torch.set_float32_matmul_precision(precision)
