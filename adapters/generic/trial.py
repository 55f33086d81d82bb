"""Tries a network's evaluation on random images, before its training is paid for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mixer_plugin.adapters.base import Adapter, Tap
from mixer_plugin.errors import MixERError, MixERValueError, MixERWarning
from mixer_plugin.heads import clone_stage, modes_kept, private_random

EQUAL = 0.999  # cosine from which two embeddings are taken for one
ROWS = 2  # images of each modality


@dataclass(frozen=True)
class Trial:
    """What came of an evaluation on random images.

    Attributes:
        erased: [B, De], the tapped embedding after the neck.
        own: cosine of the erased embedding with the closest output of the network's own forward;
            None where no output has its shape.
        related: cosine of the embedding before the neck with what untrained heads give: clones of
            the stage and the pooling; None where the widths differ.
    """

    erased: Tensor
    own: float | None
    related: float | None


@contextlib.contextmanager
def reading(model: nn.Module, taps: Mapping[str, Tap]) -> Iterator[dict[str, list[Any]]]:
    """Within the block every call of the tapped modules is read; no hook is left behind.

    Yields:
        By name of the tap, the tensors of its calls so far.
    """
    found: dict[str, list[Any]] = {name: [] for name in taps}
    with contextlib.ExitStack() as stack:
        for name, tap in taps.items():
            module = model.get_submodule(tap.path)
            stack.callback(_hook(module, tap, found[name].append).remove)
        yield found


def _hook(module: nn.Module, tap: Tap, keep: Callable[[Any], None]) -> Any:
    def copied(value: Any) -> Any:
        return value.clone() if tap.clone else value

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(copied(args[0] if args else next(iter(kwargs.values()))))

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        keep(copied(output))

    if tap.side == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[tuple[torch.device, torch.dtype]]:
    """Eval mode, no gradients, random numbers of its own; afterwards all is as it was.

    Yields:
        Device and dtype of the model's floating-point parameters.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.no_grad(), private_random(like.device, 0), modes_kept(model):
        model.eval()
        yield like.device, like.dtype


def try_evaluation(
    adapter: Adapter,
    model: nn.Module,
    size: tuple[int, int],
    run: Callable[[nn.Module, Tensor, Tensor], Any],
) -> Trial:
    """Evaluates random images of each modality, and compares what the adapter reads.

    Args:
        adapter: of the model.
        model: not wrapped; its modes, hooks and the random state stay as they are.
        size: (height, width) of the images.
        run: ``run(model, images, modality)`` calls the forward once and returns its output.

    Raises:
        MixERValueError: if the forward fails, a tapped module does not run once, or features have
            other widths than the adapter says.
    """
    taps = adapter.taps(model)
    parts = []
    with evaluating(model) as (device, dtype):
        stage = clone_stage(adapter.stage_module(model)).eval()
        for modality in (0, 1):
            images = torch.randn(ROWS, 3, *size, device=device, dtype=dtype)
            rows = torch.full((ROWS,), modality, device=device)
            with reading(model, taps) as values:
                try:
                    output = run(model, images, rows)
                except MixERError:
                    raise
                except Exception as error:  # whatever a foreign forward makes of the images
                    raise MixERValueError(_failure(model, size, error)) from error
            try:
                found = adapter.read(values, taps)
            except MixERError as error:
                raise MixERValueError(f"In a trial evaluation: {error}") from error
            related = adapter.pool(model, adapter.run_stage(stage, found["stage_input"], modality))
            parts.append((found["erased_after"], found["erased_before"], related, output))
    erased, before, related = (torch.cat([part[i] for part in parts]) for i in range(3))
    widths = (before.shape[1], related.shape[1])
    if widths != adapter.widths(model):
        raise MixERValueError(
            f"In a trial evaluation the embedding has {widths[0]} columns and the pooled map of "
            f"the stage {widths[1]}; the adapter {adapter.name!r} expects {adapter.widths(model)}. "
            "Name the last stage before the embedding, and its pooling."
        )
    outputs = [_rows_of(part[3], len(part[0])) for part in parts]
    closest = [
        cosine(erased, torch.cat(pair))
        for pair in zip(*outputs, strict=False)
        if pair[0].shape[1:] == pair[1].shape[1:] == erased.shape[1:]
    ]
    same = before.shape == related.shape
    own = max(closest) if closest else None
    return Trial(erased, own, cosine(before, related) if same else None)


def cosine(a: Tensor, b: Tensor) -> float:
    """The smallest cosine of a row of ``a`` with the same row of ``b``, both [B, D]."""
    return float(torch.cosine_similarity(a.double(), b.double()).min())


def warn_of_differences(trial: Trial, where: str, level: int = 2) -> None:
    """Gives a ``MixERWarning`` for an erased or a related embedding that is not what is meant.

    Args:
        trial: from :func:`try_evaluation`.
        where: what was read, in words, such as ``embedding before bottleneck``.
        level: of the caller, for the warning.
    """
    if trial.own is not None and trial.own < EQUAL:
        warnings.warn(
            f"The erased embedding ({where}) is not what the network itself returns in eval mode: "
            f"their cosine falls to {trial.own:.3f}. Name the module whose output, or input, its "
            "evaluation uses: embedding= and neck=.",
            MixERWarning,
            stacklevel=level + 1,
        )
    if trial.related is not None and trial.related < EQUAL:
        warnings.warn(
            "Clones of the stage with the pooling do not give the embedding that they are clones "
            f"of ({where}): their cosine falls to {trial.related:.3f}. Pass the base's own "
            "pooling, such as pool=GeM(3.0), or the module that runs behind the stage as its last "
            "part.",
            MixERWarning,
            stacklevel=level + 1,
        )


def _rows_of(output: Any, rows: int) -> list[Tensor]:
    """The outputs [rows, D] among all that a forward returns."""
    found = [value for value in tree_leaves(output) if isinstance(value, Tensor)]
    return [v.flatten(1) for v in found if v.dim() in (2, 4) and len(v) == rows]


def _failure(model: nn.Module, size: tuple[int, int], error: Exception) -> str:
    """Why a forward failed; position embeddings are named, since they fix the size of images."""
    height, width = size
    text = (
        f"{type(model).__name__} does not evaluate images of {height} × {width}: "
        f"{type(error).__name__}: {error}."
    )
    positions = [
        f"{name!r} has {value.shape[-2]} positions"
        for name, value in model.named_parameters()
        if "pos" in name.lower().split(".")[-1] and value.dim() in (2, 3)
    ]
    if positions:
        return (
            f"{text} Its position embedding is made for one size of images ({positions[0]}). Build "
            "the network for the size that it is trained on, or pass that size: "
            "GenericAdapter(…, trial=(height, width)). Of a checkpoint for another size, "
            "load_base_state_dict(net, path, positions=(rows, columns)) resizes the embedding."
        )
    return f"{text} Pass the size that it is trained on: GenericAdapter(…, trial=(height, width))."
