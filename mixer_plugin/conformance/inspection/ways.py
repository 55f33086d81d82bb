"""How a network is called: with which images, labels and modality, and what it returns."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.adapters import Cameras, GenericAdapter, TwoStream
from mixer_plugin.adapters.generic.inputs import forward_parameters
from mixer_plugin.adapters.generic.trial import ROWS, evaluating
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.conformance.any_loop import any_loop, loss_and_metrics
from mixer_plugin.errors import MixERError, MixERRuntimeError, MixERValueError
from mixer_plugin.heads import private_random

CAMERAS = ("cam_ids", "camids", "cam_id", "camid", "cams", "cam", "cam_label", "camera")
MODALITIES = ("modality", "modalities", "modal", "mod", "is_ir")
LABELS = ("labels", "label", "targets", "target", "pids", "pid", "ids", "y")
# Of the field's codebases, then smaller ones; the first that a network takes is used.
SIZES = ((288, 144), (256, 128), (384, 192), (384, 128), (384, 144), (224, 224), (64, 32), (32, 16))


@dataclass(frozen=True)
class Way:
    """How a network is called.

    Attributes:
        options: arguments of ``GenericAdapter`` that say so.
        words: the same for a reader.
        size: (height, width) of the images.
    """

    options: dict[str, Any]
    words: str
    size: tuple[int, int]

    def adapter(self) -> GenericAdapter:
        """An adapter that runs the network in this way, with no places yet."""
        return GenericAdapter("", ":output", **self.options)


def find_way(model: nn.Module, classes: int, size: tuple[int, int] | None) -> Way:
    """The first way of calling the network that works in eval mode, and its loss in training.

    Args:
        model: bare; stays as it is.
        classes: training identities.
        size: (height, width) of images; None: the first of :data:`SIZES` that the network takes.

    Raises:
        MixERValueError: if no way works; says what each one failed with.
    """
    failures = []
    for given in (size,) if size is not None else SIZES:
        for words, options in _options(model):
            way = Way(options, words, given)
            try:
                for modality in (0, 1):
                    evaluate(model, way, modality)
            except Exception as error:  # whatever a foreign forward makes of the call
                line = str(error).strip().partition("\n")[0]
                failures.append(f"{words}, {given[0]} × {given[1]}: {type(error).__name__}: {line}")
                continue
            return _with_loss(model, way, classes)
    shown = "\n  ".join(dict.fromkeys(failures))
    raise MixERValueError(
        f"{type(model).__name__}.forward{forward_parameters(model)[0]} took no call that was "
        f"tried:\n  {shown}\nGive the size of its images with --size, or write an adapter of your "
        "own whose embed calls it: docs/integrations/own-adapter.md shows how."
    )


def evaluate(model: nn.Module, way: Way, modality: int) -> Any:
    """The network's output for random images of one modality, in eval mode."""
    with evaluating(model) as (device, dtype):
        images = torch.randn(ROWS, 3, *way.size, device=device, dtype=dtype)
        rows = torch.full((ROWS,), modality, device=device)
        return way.adapter().run(model, images, rows)


def batch_of(size: tuple[int, int], classes: int, device: torch.device, rows: str) -> Batch:
    """Random images of two identities, in the row order of a loop (``grouped`` or ``blocks``)."""
    labels = torch.arange(2, device=device).repeat_interleave(4) % classes
    modality = torch.tensor([1, 0], device=device).repeat(4)
    if rows == "blocks":
        order = modality.argsort(stable=True)
        labels, modality = labels[order], modality[order]
    images = torch.randn(8, 3, *size, device=device)
    return Batch(images, labels, modality, torch.where(modality == 1, 3, 1))


def _options(model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """Ways of calling, the most telling first: (words, arguments of ``GenericAdapter``)."""
    _, known = forward_parameters(model)
    ways: list[tuple[str, dict[str, Any]]] = []
    try:
        names = TwoStream().names(model)
    except MixERError:
        pass
    else:
        switch = "no switch" if names[2] is None else f"a switch, {names[2]}"
        words = f"two streams, {names[0]} and {names[1]}, and {switch}"
        ways.append((words, {"inputs": "two-stream"}))
    source = _source(model)
    for name in CAMERAS:
        if name in known or f"'{name}'" in source or f'"{name}"' in source:
            words = f"cameras in {name} (3 and 6 infrared)"
            modality = Cameras() if name == "cam_ids" else Cameras(name)
            ways.append((words, {"modality": modality}))
    ways += [(f"{n}, row by row", {"modality": n}) for n in MODALITIES if n in known]
    return [*ways, ("known to the loop alone", {})]


def _source(model: nn.Module) -> str:
    try:
        return inspect.getsource(type(model))
    except (OSError, TypeError):
        return ""


def _with_loss(model: nn.Module, way: Way, classes: int) -> Way:
    """The way, with ``loss="forward"`` where a training forward with labels returns a scalar."""
    _, known = forward_parameters(model)
    for name in (n for n in LABELS if n in known):
        named = {} if name == "labels" else {"labels": name}
        told = Way({**way.options, "loss": "forward", **named}, way.words, way.size)
        if returns_a_loss(model, told, classes):
            return told
    return way


def returns_a_loss(model: nn.Module, way: Way, classes: int) -> bool:
    """Whether a copy of the network returns a loss in training, called in this way."""
    twin = copy.deepcopy(model).train()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with private_random(device, 0):
            loop = any_loop(way.adapter(), twin, classes)
            batch = batch_of(way.size, classes, device, loop.rows)
            loss, _ = loss_and_metrics(loop.call(twin, batch))
    except MixERRuntimeError:
        return False
    except Exception:  # whatever a foreign forward makes of the call
        return False
    return isinstance(loss, Tensor) and loss.requires_grad
