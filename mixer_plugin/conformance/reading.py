"""What an adapter says of its network, compared with the network: rows, embedding, features."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import Call, GenericAdapter
from mixer_plugin.adapters.generic.trial import EQUAL, cosine
from mixer_plugin.config import MixERConfig
from mixer_plugin.conformance.case import Case
from mixer_plugin.conformance.wrappers import require
from mixer_plugin.extraction import embed, extract_features
from mixer_plugin.forward.mixed import mixer_of
from mixer_plugin.forward.record import Record
from mixer_plugin.heads import clone_stage, private_random


def draw_norms(model: nn.Module) -> None:
    """Gives the BatchNorm necks of a model random statistics, in place.

    Those of a network that was not trained yet change nothing, so that features before and after a
    neck could not be told apart.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with private_random(device, 1), torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d) and module.running_mean is not None:
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)


def knows_rows_and_labels(case: Case) -> str:
    """9: a forward's rows, their modality and their labels are those of the batch."""
    model, calls = case.wrapped(), []
    mixer = mixer_of(model)
    listen = mixer.listen

    def keep(call: Call, forward: Any) -> Any:
        calls.append(call)
        return listen(call, forward)

    mixer.listen = keep
    case.step(model)
    batch, record = case.batch(), mixer.record
    require(record is not None, "A training forward was not read.")
    rows, count = len(record.erased_before), len(batch.labels)
    require(rows % count == 0, f"A forward on {count} rows gave {rows} embeddings.")
    _same_rows(record, batch.modality.repeat(rows // count), "a training batch")
    if not case.in_loop:
        labels = case.adapter.labels(calls[-1])
        require(labels is not None, "Adapter.labels gives None for a forward that got labels.")
        same = torch.equal(torch.as_tensor(labels), batch.labels)
        require(same, f"Adapter.labels gives {labels}; the batch has {batch.labels.tolist()}.")
    for modality, name in enumerate(("visible", "infrared")):
        for seen in _evaluated(case, model, modality)[1]:
            kinds = torch.full((len(seen.erased_before),), modality)
            _same_rows(seen, kinds, f"an evaluation of {name} images")
    return "in training and evaluation"


def reads_the_embedding(case: Case, *, between: bool = False) -> str:
    """10: what is read is what evaluation retrieves with, and clones of the stage give it.

    Args:
        case: of the network.
        between: the network does more between stage and pooling than clones repeat.
    """
    prototype = copy.deepcopy(case.prototype)
    draw_norms(prototype)
    if isinstance(case.adapter, GenericAdapter):  # whose embed returns what it reads
        own = case.adapter.try_on(prototype, case.image_size).own
        require(
            own is None or own >= EQUAL,
            "The embedding that is read is not what the network itself returns in eval mode: their "
            f"cosine falls to {own or 0:.3f}.",
        )
    without_heads = MixERConfig(control="erased-triplet")
    case = dataclasses.replace(case, prototype=prototype, config=without_heads)
    adapter, model, found = case.adapter, case.wrapped(), []
    stage = clone_stage(adapter.stage_module(prototype)).eval()
    for modality, name in enumerate(("visible", "infrared")):
        embedding, (record, *others) = _evaluated(case, model, modality, heads=False)
        with torch.no_grad():
            stage_map = adapter.run_stage(stage, record.stage_input, modality)
            related = adapter.pool(model, stage_map, **record.pooling)
        before, after = record.erased_before, record.erased_after
        widths = before.shape[1], related.shape[1]
        require(
            widths == adapter.widths(model),
            f"erased_before has {widths[0]} columns, and what pool makes of the stage "
            f"{adapter.stage_path(model)!r} {widths[1]}; widths says {adapter.widths(model)}.",
        )
        if not others and after.shape == embedding.shape:
            _alike(
                *(embedding, after),
                f"erased_after, [B, {after.shape[1]}], is not what embed returns for {name} images",
            )
            found.append("embedding")
        if not between and related.shape == before.shape:
            _alike(
                *(related, before),
                f"Clones of the stage {adapter.stage_path(model)!r} with pool do not give "
                f"erased_before of {name} images",
            )
            found.append("clones")
    return ", ".join(dict.fromkeys(found)) or "nothing of equal widths to compare"


def _alike(a: Tensor, b: Tensor, otherwise: str) -> None:
    same = cosine(a, b)
    require(same >= EQUAL, f"{otherwise}: their cosine falls to {same:.3f}.")


def extracts_features(case: Case) -> str:
    """11: features of a batch of both modalities, in the order of its rows."""
    model = case.wrapped()
    images, kinds = (torch.cat(part) for part in zip(*map(case.images, (0, 1)), strict=True))
    order = torch.tensor([4, 0, 1, 5, 2, 3])
    rows = (images[order], order, torch.where(kinds == 1, 3, 1)[order], kinds[order])
    found = extract_features(model, [rows])
    alone = torch.cat([case.embed(model, modality) for modality in (0, 1)])[order]
    close = found.erased.shape == alone.shape and torch.allclose(found.erased, alone.float(), 1e-3)
    require(close, "embed gives other rows for a batch of both modalities than for each alone.")
    require(found.related is not None, "There are no related features.")
    assert found.related is not None
    finite = bool(torch.isfinite(found.erased).all() and torch.isfinite(found.related).all())
    require(finite, "Features are not finite.")
    return f"erased {list(found.erased.shape)}, related {list(found.related.shape)}"


def _evaluated(
    case: Case, model: nn.Module, modality: int, *, heads: bool = True
) -> tuple[Tensor, list[Record]]:
    """The embedding of images of one modality, and the records of the forwards that gave it."""
    model.eval()
    with torch.no_grad():
        (found,) = embed(model, *case.images(modality), heads=heads)
    return found.embedding, found.records


def _same_rows(record: Record, expected: Tensor, where: str) -> None:
    """The record's modality is as expected, or left to the loop."""
    given = record.modality
    require(
        given is None or torch.equal(given.cpu(), expected),
        f"Adapter.row_modality gives {None if given is None else given.tolist()} for {where} whose "
        f"rows are {expected.tolist()}.",
    )
