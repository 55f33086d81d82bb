"""A wrapped model as a program of ``torch.export``."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from mixer_plugin.export.embedder import Embedder, make_embedder

OUTPUTS = ("erased", "related", "fused")


def export_program(
    model: nn.Module, size: tuple[int, int] = (256, 128)
) -> torch.export.ExportedProgram:
    """Records a wrapped model as a graph for any batch.

    ``program.module()(images, modality)`` takes images [B, 3, H, W] float32, normalised as in the
    training, and modality [B] int64 (0 visible, 1 infrared), B >= 1 in any mixture. It returns
    erased [B, De] and related [B, Dr], as ``extract_features`` gives them, and fused [B, De + Dr],
    the L2-normalised halves side by side. The model is left as it is.

    Args:
        model: wrapped by ``wrap_with_mixer``; also inside DDP or ``torch.compile``.
        size: (height, width) in pixels of the images that the graph is made for.

    Returns:
        The program, on the CPU and in float32.

    Raises:
        MixERTypeError: if the model is not wrapped, has no related heads, or cannot be evaluated.
        MixERValueError: for a size that is no pair of whole numbers >= 1.
        MixERRuntimeError: if PyTorch cannot record the forward; holds its reasons.
    """
    return trace(make_embedder(model), size)


def trace(embedder: Embedder, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The program of an embedder; errors as of :func:`export_program`."""
    height_width = tuple(size)
    if len(height_width) != 2 or not all(isinstance(n, int) and n >= 1 for n in height_width):
        raise MixERValueError(f"size is {size!r}; expected (height, width) in pixels.")
    images, modality = example(size, [0, 1, 1, 0])
    with torch.no_grad():
        embedder(images, modality)  # the forward's own errors; and hooks on what was replaced
    batch = torch.export.Dim("batch", min=1)
    options: dict[str, Any] = {
        "args": (images, modality),
        "dynamic_shapes": ({0: batch}, {0: batch}),
        "prefer_deferred_runtime_asserts_over_guards": True,
    }
    # Python's own tracing is quick; Dynamo also follows len(x) of a batch.
    first = _record(copy.deepcopy(embedder), strict=False, **options)
    if isinstance(first, torch.export.ExportedProgram):
        return first
    second = _record(copy.deepcopy(embedder), strict=True, **options)
    if isinstance(second, torch.export.ExportedProgram):
        return second
    reasons = "; ".join(map(_first_line, (first, second)))
    raise MixERRuntimeError(
        f"torch.export cannot record {type(embedder.model).__name__}.forward ({reasons}). "
        "Its forward must not branch on values or pick rows by them; an adapter may replace what "
        "does so (Adapter.prepare_export)."
    )


def example(size: tuple[int, int], modality: list[int]) -> tuple[Tensor, Tensor]:
    """Random images [B, 3, H, W] of given modalities, and these [B] int64; always the same."""
    generator = torch.Generator().manual_seed(len(modality))
    return torch.randn(len(modality), 3, *size, generator=generator), torch.tensor(modality)


def _record(embedder: Embedder, **options: Any) -> torch.export.ExportedProgram | Exception:
    """The program, or whatever the tracer raised."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(embedder, **options)
    except Exception as error:
        return error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
