"""Proposes an adapter for a network, and tries it before it says so."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.adapters.generic.arguments import Word, line_of
from mixer_plugin.adapters.generic.trial import EQUAL
from mixer_plugin.attach import mixer_loss, wrap_with_mixer
from mixer_plugin.conformance.any_loop import ToldStep, any_loop
from mixer_plugin.conformance.building import read_adapter
from mixer_plugin.conformance.inspection.places import (
    Embedding,
    Pooled,
    Stage,
    find_embeddings,
    find_pooling,
    find_stages,
)
from mixer_plugin.conformance.inspection.watch import Watched, is_map, watch
from mixer_plugin.conformance.inspection.ways import Way, batch_of
from mixer_plugin.errors import MixERWarning
from mixer_plugin.extraction import extract_features
from mixer_plugin.heads import private_random

TRIES = 6  # lines at most: each one takes two training steps


@dataclass(frozen=True)
class Proposal:
    """What was found in a network.

    Attributes:
        way: how it is called.
        embedding: where its embedding is; None if no place was found.
        pooled: how the embedding is made of a map; None if no known pooling makes it.
        stages: candidates, the likeliest first.
        classifiers: columns of the linear layers that take the embedding, by path.
        line: the adapter as a line of code; None if no line works.
        troubles: why lines that were tried do not work, one each.
    """

    way: Way
    embedding: Embedding | None
    pooled: Pooled | None
    stages: list[Stage]
    classifiers: dict[str, int]
    line: str | None
    troubles: list[str]


def propose(model: nn.Module, way: Way, classes: int) -> Proposal:
    """Looks at a bare network in eval mode and tries the likeliest adapters on copies of it.

    Args:
        model: stays as it is.
        way: how it is called.
        classes: training identities that it was built for.
    """
    watched = watch(model, way)
    first: Proposal | None = None
    troubles: list[str] = []
    tried: set[str] = set()
    for embedding, pooled, stages, classifiers in _found(watched, classes):
        proposal = Proposal(way, embedding, pooled, stages, classifiers, None, troubles)
        first = first or proposal
        for stage in stages[:2]:
            line = _line(way, embedding, pooled, stage, classifiers, classes)
            if line in tried or len(tried) == TRIES:
                continue
            tried.add(line)
            trouble = trouble_of(line, model, watched.model, classes)
            if trouble is None:
                return Proposal(way, embedding, pooled, stages, classifiers, line, troubles)
            troubles.append(f"{line}: {trouble}")
    return first or _without_a_pooling(way, watched, classes)


def _without_a_pooling(way: Way, watched: Watched, classes: int) -> Proposal:
    """What there is where no known pooling makes an embedding: stages before the last map."""
    embedding = next(find_embeddings(watched), None)
    maps = [visit.given for visit in watched.visits if is_map(visit.given)]
    known = [find_stages(watched, x) for x in maps[-30:]]
    numbered = [stages for stages in known if stages and stages[0].parts[0][-1].isdigit()]
    stages = max(numbered or known or [[]], key=lambda s: s[0].parameters if s else 0)
    width = embedding.values.shape[1] if embedding else 0
    classifiers = _classifiers(watched.model, width, classes)
    return Proposal(way, embedding, None, stages, classifiers, None, [])


def _found(
    watched: Watched, classes: int
) -> Iterator[tuple[Embedding, Pooled, list[Stage], dict[str, int]]]:
    for embedding in itertools.islice(find_embeddings(watched), 12):
        pooled = find_pooling(watched, embedding.values)
        if pooled is not None:
            stages = find_stages(watched, pooled.stage_map)
            width = embedding.values.shape[1]
            yield embedding, pooled, stages, _classifiers(watched.model, width, classes)


def _classifiers(model: nn.Module, width: int, classes: int) -> dict[str, int]:
    """Linear layers over the embedding; those of the number of classes alone where there are.

    Of any width where the embedding's is not known (0).
    """
    found = {
        name: module.out_features
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and width in (module.in_features, 0)
    }
    fitting = {name: columns for name, columns in found.items() if columns == classes}
    return fitting or found


def _line(
    way: Way,
    embedding: Embedding,
    pooled: Pooled,
    stage: Stage,
    classifiers: dict[str, int],
    classes: int,
) -> str:
    """The adapter as a line of code."""
    place: str | None = embedding.place
    pool = pooled.function
    if pooled.path is not None:
        place = pooled.path  # the module that pools gives the embedding
    elif pool == "class_token" and len(stage.parts) > 1:
        place = pool = None  # the default of a stage of several parts
    named = [name for name, columns in classifiers.items() if columns == classes]
    classifier = next((n for n in named if n.split(".")[-1] == "classifier"), None)
    if classifier is None and named:
        classifier = named[-1]
    values = {
        "stage": stage.parts[0] if len(stage.parts) == 1 else stage.parts,
        "embedding": place,
        "pool": None if pool is None else Word(pool),
        "neck": embedding.neck,
        "classifier": classifier,
        "clone": embedding.written,
        "base_losses": "identity" if classifier else (),
        "trial": way.size,
        **way.options,
    }
    return line_of(GenericAdapter.__init__, values)


def trouble_of(line: str, model: nn.Module, drawn: nn.Module, classes: int) -> str | None:
    """Why a line does not attach, train and evaluate as it should; None where it does.

    Args:
        line: of the adapter.
        model: bare; copies of it are wrapped.
        drawn: its copy whose norms tell features before and after a neck apart.
        classes: training identities.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", MixERWarning)
            adapter = read_adapter(line, model, Path())
            assert isinstance(adapter, GenericAdapter)
            assert adapter.trial is not None
            tried = adapter.try_on(drawn, adapter.trial)
            if tried.own is not None and tried.own < EQUAL:
                return f"not the evaluation's own embedding (cosine {tried.own:.3f})"
            if tried.related is not None and tried.related < EQUAL:
                return f"clones of the stage give another embedding (cosine {tried.related:.3f})"
            for mode in ("e2e", "f"):
                _step(copy.deepcopy(model), mode, adapter, classes)
    except Exception as error:  # whatever a foreign network makes of it is why the line is no good
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


def _step(model: nn.Module, mode: str, adapter: GenericAdapter, classes: int) -> None:
    """One training step and an extraction; raises whatever goes wrong."""
    known = adapter.classifier_path(model) is not None
    given = None if known else classes
    net = wrap_with_mixer(model, mode, adapter=adapter, seed=0, num_classes=given)
    assert adapter.trial is not None
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    with private_random(device, 0):
        loop = any_loop(adapter, net, classes)
        batch = batch_of(adapter.trial, classes, device, loop.rows)
        step = loop(net.train(), batch)
        loss = step.loss
        if adapter.adds_loss() == "loop":
            assert isinstance(step, ToldStep)
            loss = loss + mixer_loss(net, batch.labels, step.modality)
        torch.autograd.backward(loss)
        rows = (batch.images, batch.labels, batch.cams, batch.modality)
        found = extract_features(net, [rows])
    assert found.related is not None
