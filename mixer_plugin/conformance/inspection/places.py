"""Finds, in a watched evaluation, the embedding, its pooling and the stages behind it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import GeM, class_token, max_pool, mean_pool, patch_mean, token_mean
from mixer_plugin.adapters.base import numbered_before, runs_in_a_row
from mixer_plugin.adapters.generic.trial import EQUAL, cosine
from mixer_plugin.adapters.stages import has_matrix
from mixer_plugin.conformance.inspection.watch import Visit, Watched, is_map

SAME = 0.9999  # cosine from which a pooled map is the embedding
IMAGE_CHANNELS = 3  # what takes images is a trunk
LARGE = 0.8  # share of a network's parameters from which a module is a trunk and no stage


@dataclass(frozen=True)
class Embedding:
    """A place of the erased embedding.

    Attributes:
        place: ``path`` of a module that gives it, or ``path:input`` of one that takes it.
        neck: path of the batch norm behind it, or None.
        values: [B, D], before the neck.
        words: for a reader.
        own: whether the network's evaluation returns it.
        written: whether the network writes into it later.
    """

    place: str
    neck: str | None
    values: Tensor
    words: str
    own: bool = True
    written: bool = False


@dataclass(frozen=True)
class Pooled:
    """How a map becomes the embedding.

    Attributes:
        stage_map: the map, [B, D, H, W] or [B, T, D].
        path: of the module without parameters that does it, or None.
        function: the same as a word of ``mixer_plugin.adapters``, or None.
    """

    stage_map: Tensor
    path: str | None
    function: str | None


@dataclass(frozen=True)
class Stage:
    """Modules that run one after the other and end with the pooled map.

    Attributes:
        parts: their paths.
        taken: shape of what the first one takes.
        given: shape of the map.
        parameters: of all parts.
    """

    parts: tuple[str, ...]
    taken: tuple[int, ...]
    given: tuple[int, ...]
    parameters: int


def find_embeddings(watched: Watched) -> Iterator[Embedding]:
    """Where the embedding may be, the likeliest first.

    What the evaluation returns comes first, its last output before the others, since networks that
    return two return the one behind the neck last. Then every batch norm of features.
    """
    visits = _called_once(watched)
    for number, own in reversed([*enumerate(watched.outputs, 1)]):
        given = [v for v in visits if _equal(v.small[1], own)]
        said = f"what output {number} of the evaluation is"
        for visit in _necks(given):
            yield _before(visit, f"before {visit.path}, behind which it is {said}")
        for visit in given:
            if isinstance(visit.module, nn.Linear) and visit.small[0] is not None:
                yield from _behind(visits, visit, f"what {visit.path} makes output {number} of")
        for visit in given:
            if visit not in _necks(given) and not isinstance(visit.module, nn.Linear):
                values = visit.small[1]
                assert values is not None
                words = f"{visit.path}'s output, {said}"
                yield Embedding(visit.path, None, values.flatten(1), words)
        for visit in visits:
            if _equal(visit.small[0], own):
                values = visit.small[0]
                assert values is not None
                place = f"{visit.path}:input"
                yield Embedding(place, None, values.flatten(1), f"{visit.path}'s input, {said}")
    for visit in _necks(visits):
        if any(isinstance(m, nn.BatchNorm1d) for m in visit.module.modules()):
            words = f"before {visit.path}; the evaluation returns it in no output as it is"
            yield _before(visit, words, own=False)


def _before(norm: Visit, words: str, own: bool = True) -> Embedding:
    values = norm.small[0]
    assert values is not None
    written = not torch.equal(values, norm.taken)
    return Embedding(f"{norm.path}:input", norm.path, values.flatten(1), words, own, written)


def _necks(visits: list[Visit]) -> list[Visit]:
    """Norms of features, or modules of norms alone (one per modality), the outermost first."""
    found = [v for v in visits if v.small[0] is not None and v.small[1] is not None]
    found = [v for v in found if _size(v.module) and _only_norms(v.module)]
    return sorted(found, key=lambda v: v.path.count("."))


def _only_norms(module: nn.Module) -> bool:
    holders = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return all("Norm" in type(m).__name__ for m in holders)


def _behind(visits: list[Visit], layer: Visit, words: str) -> Iterator[Embedding]:
    """The features that a linear layer takes, and the neck where they come from one."""
    values = layer.small[0]
    assert values is not None
    for visit in _necks([v for v in visits if _equal(v.small[1], values)]):
        yield _before(visit, f"before {visit.path}, behind which it is {words}")
    yield Embedding(f"{layer.path}:input", None, values.flatten(1), words)


def find_pooling(watched: Watched, values: Tensor) -> Pooled | None:
    """The last map from which a known pooling makes the embedding [B, D]; None if none does."""
    visits = _called_once(watched)
    for visit in reversed(visits):
        free = not any(True for _ in visit.module.parameters())
        if free and is_map(visit.taken) and _equal(visit.small[1], values, SAME):
            return Pooled(visit.taken, visit.path, None)
    for visit in reversed(visits):
        x = visit.given
        if not is_map(x) or x.shape[1 if x.dim() == 4 else 2] != values.shape[1]:
            continue
        for name, pooling in _poolings(watched.model, x.dim()):
            if _equal(pooling(x), values, SAME):
                return Pooled(x, None, name)
    return None


def _poolings(model: nn.Module, dims: int) -> list[tuple[str, Any]]:
    """Words for poolings, and the poolings, of maps (4 dimensions) or tokens (3)."""
    if dims == 3:
        tokens = (class_token, token_mean, patch_mean)
        return [(function.__name__, function) for function in tokens]
    powers = [f"{n}.p" for n, m in model.named_modules() if n and hasattr(m, "p")]
    powers += [n for n, p in model.named_parameters() if p.numel() == 1 and n not in powers]
    gems = [(repr(GeM(name)), GeM(name)) for name in powers if _is_power(model, name)]
    plain = [("mean_pool", mean_pool), ("GeM(3.0)", GeM(3.0)), ("max_pool", max_pool)]
    return [*plain, *((name, gem.of(model)) for name, gem in gems)]


def _is_power(model: nn.Module, path: str) -> bool:
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name, None)
    if isinstance(value, Tensor):
        return value.numel() == 1 and float(value.detach()) >= 1
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 1


def find_stages(watched: Watched, stage_map: Tensor) -> list[Stage]:
    """What may be the stage that ends with a map, the likeliest first.

    A stage is a module with siblings of lower numbers (``layer3`` before ``layer4``), the outermost
    such one that takes no images; modules without a number that run behind it are its last parts.
    """
    model, total = watched.model, sum(p.numel() for p in watched.model.parameters())
    makers = [*_called_once(watched), *_in_a_row(watched)]
    tail: list[Visit] = []
    x = stage_map
    for _ in range(4):  # a norm, an attention, an activation behind the last stage
        here = [v for v in makers if v.given is x and is_map(v.taken)]
        numbered = [v for v in here if re.search(r"\d$", v.path) and has_matrix(v.module)]
        numbered = [v for v in numbered if numbered_before(model, v.path)]
        if numbered:
            numbered.sort(key=lambda v: (v.taken.shape[1] == IMAGE_CHANNELS, v.path.count(".")))
            return [_stage((v, *tail)) for v in numbered]
        behind = min(here, key=lambda v: (_size(v.module), -v.path.count(".")), default=None)
        if behind is None:
            break
        tail.insert(0, behind)
        x = behind.taken
    trunks = [v for v in makers if v.given is stage_map and is_map(v.taken) and _size(v.module)]
    trunks.sort(key=lambda v: (_size(v.module) > LARGE * total, -_size(v.module)))
    return [_stage((v,)) for v in trunks]


def _stage(visits: tuple[Visit, ...]) -> Stage:
    first, last = visits[0], visits[-1]
    parameters = sum(_size(v.module) for v in visits)
    shapes = (tuple(first.taken.shape[1:]), tuple(last.given.shape[1:]))
    return Stage(tuple(v.path for v in visits), *shapes, parameters)


def _in_a_row(watched: Watched) -> list[Visit]:
    """Containers that were not called, and whose children ran one after the other."""
    visits = {v.path: v for v in _called_once(watched)}
    called = {v.path for v in watched.visits}
    found = []
    for path, module in watched.model.named_modules():
        if not path or path in called or not runs_in_a_row(module):
            continue
        inside = [visits.get(f"{path}.{name}") for name in module._modules]
        run = [v for v in inside if v is not None]
        pairs = itertools.pairwise(run)
        if run and len(run) == len(inside) and all(b.taken is a.given for a, b in pairs):
            found.append(Visit(path, module, run[0].taken, run[-1].given, (None, None)))
    return found


def _called_once(watched: Watched) -> list[Visit]:
    counts = Counter(v.path for v in watched.visits)
    return [v for v in watched.visits if counts[v.path] == 1]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _equal(found: Tensor | None, expected: Tensor, least: float = EQUAL) -> bool:
    if found is None:
        return False
    rows = found.flatten(1)
    return (
        rows.shape == expected.shape
        and bool(torch.isfinite(rows).all())
        and (cosine(rows, expected) >= least)
    )
