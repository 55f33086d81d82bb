"""What ``mixer-plugin inspect`` prints of a network."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.adapters.generic.arguments import Word, line_of
from mixer_plugin.conformance.building import ADAPTER_WORDS
from mixer_plugin.conformance.inspection.places import Stage
from mixer_plugin.conformance.inspection.propose import Proposal


def report(model: nn.Module, proposal: Proposal, classes: int) -> str:
    """What was found, and the lines to paste: an adapter in one line, or a class to fill in."""
    way, embedding = proposal.way, proposal.embedding
    lines = [
        f"images      {way.size[0]} × {way.size[1]}; modality: {way.words}",
        "loss        " + ("returned by the forward" if _inside(proposal) else "in the loop"),
        *(_stage_line(stage) for stage in proposal.stages),
    ]
    if embedding is not None:
        lines.append(f"embedding   [B, {embedding.values.shape[1]}], {embedding.words}")
    if proposal.pooled is not None:
        how = proposal.pooled.path or proposal.pooled.function
        lines.append(f"pooling     {how}")
    layers = [f"{name} ({columns} columns)" for name, columns in proposal.classifiers.items()]
    lines.append(f"classifier  {', '.join(layers) or 'none takes the embedding'}")
    lines += [f"not taken   {trouble}" for trouble in proposal.troubles]
    return "\n".join([*lines, "", *_to_paste(model, proposal, classes)])


def facts(proposal: Proposal) -> dict[str, Any]:
    """What was found, as JSON has it; ``line`` is null if no single line attaches."""
    embedding, pooled = proposal.embedding, proposal.pooled
    return {
        "line": proposal.line,
        "size": list(proposal.way.size),
        "modality": proposal.way.words,
        "loss_in_forward": _inside(proposal),
        "stages": [list(stage.parts) for stage in proposal.stages],
        "embedding": None if embedding is None else embedding.place,
        "columns": None if embedding is None else embedding.values.shape[1],
        "neck": None if embedding is None else embedding.neck,
        "pooling": None if pooled is None else pooled.path or pooled.function,
        "classifiers": proposal.classifiers,
        "not_taken": proposal.troubles,
    }


def _inside(proposal: Proposal) -> bool:
    return proposal.way.options.get("loss") == "forward"


def _stage_line(stage: Stage) -> str:
    taken, given = (" × ".join(map(str, shape)) for shape in (stage.taken, stage.given))
    millions = stage.parameters / 1e6
    return f"stage       {', '.join(stage.parts)}: {taken} → {given}, {millions:.1f} M parameters"


def _to_paste(model: nn.Module, proposal: Proposal, classes: int) -> list[str]:
    if proposal.line is None:
        return [
            "No single line attaches to this network. An adapter of your own, to fill in where it "
            "says …:",
            "",
            *_skeleton(proposal).splitlines(),
            "",
            "Then: mixer-plugin check --adapter FILE.py:Mine --build … --checkout …",
        ]
    words = {word for word in ADAPTER_WORDS if re.search(rf"\b{word}\b", proposal.line)}
    names = ", ".join(sorted(words))
    fitting = any(columns == classes for columns in proposal.classifiers.values())
    given = "" if fitting or len(set(proposal.classifiers.values())) == 1 else ", num_classes=…"
    lines = [
        "This line was tried in both modes, in training and in evaluation. Paste:",
        "",
        "from mixer_plugin import mixer_loss, wrap_with_mixer",
        f"from mixer_plugin.adapters import {names}",
        "",
        f"adapter = {proposal.line}",
        f"wrap_with_mixer(net, adapter=adapter{given})",
    ]
    if _inside(proposal):
        lines[2] = "from mixer_plugin import wrap_with_mixer"
        return [*lines, "", "The loop stays as it is: the forward's loss has MixER's in it."]
    options = proposal.way.options
    told = "" if "modality" in options or "inputs" in options else ", modality"
    step = f"loss = loss + mixer_loss(net, labels{told})"
    where = " ([B], 0 visible, 1 infrared)" if told else ""
    return [*lines, "", f"and in the loop, behind its loss{where}:", "", step]


def _skeleton(proposal: Proposal) -> str:
    """An adapter of one's own with what was found filled in."""
    stage = proposal.stages[0].parts if proposal.stages else ("…",)
    embedding = proposal.embedding
    named = [name for name in proposal.classifiers if name.split(".")[-1] == "classifier"]
    values = {
        "stage": stage[0] if len(stage) == 1 else stage,
        "embedding": embedding.place if embedding else "…:input",
        "pool": Word("mean_pool"),
        "neck": embedding.neck if embedding else None,
        "classifier": next(iter([*named, *proposal.classifiers]), None),
        "clone": embedding.written if embedding else False,
        **proposal.way.options,
    }
    arguments = line_of(GenericAdapter.__init__, values).removeprefix("GenericAdapter")
    width = embedding.values.shape[1] if embedding else "..."
    words = ", ".join(sorted({w for w in ADAPTER_WORDS if re.search(rf"\b{w}\b", arguments)}))
    return f"""\
class Mine(GenericAdapter):  # from mixer_plugin.adapters import GenericAdapter, {words}
    def __init__(self):
        super().__init__{arguments}
    def widths(self, model):
        return {width}, {width}  # columns of the erased and of the pooled related feature
    def pool(self, model, stage_map):
        return stage_map.mean((2, 3))  # … of clones' maps, as the network pools its own
    def read(self, values, taps):
        return super().read(values, taps)  # … where a module runs several times in one forward
    def run(self, model, images, modality):
        return super().run(model, images, modality)  # … one call, as its evaluation makes it"""
