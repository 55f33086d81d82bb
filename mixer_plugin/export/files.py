"""Exported models as files, checked against the model before they are put in place."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.errors import MissingExtraError, MixERRuntimeError, MixERValueError
from mixer_plugin.export.embedder import make_embedder
from mixer_plugin.export.program import OUTPUTS, example, trace
from mixer_plugin.io.atomic_write import atomic_write

SUFFIXES = (".onnx", ".pt2")
# Mixed, all visible, all infrared, one visible image, one infrared image.
_BATCHES = ([0, 1, 1, 0, 1], [0, 0, 0], [1, 1], [0], [1])
_TOLERANCE = 1e-4  # of the largest value of an output
_LARGEST = 2**31 - 2**24  # bytes of a file of protocol buffers, with room for the graph

Run = Callable[[Tensor, Tensor], list[Tensor]]


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the file.
        widths: columns of erased, related and fused.
        difference: the largest difference between file and model over the batches that were tried,
            as a share of the output's largest value.
    """

    path: Path
    widths: tuple[int, int, int]
    difference: float


def export_model(
    model: nn.Module, out: str | os.PathLike[str], size: tuple[int, int] = (256, 128)
) -> ExportReport:
    """Writes a wrapped model to an ONNX file (``.onnx``) or one of ``torch.export`` (``.pt2``).

    Inputs ``images`` [B, 3, H, W] float32, normalised as in the training, and ``modality`` [B]
    int64 (0 visible, 1 infrared); outputs ``erased`` [B, De], ``related`` [B, Dr] and ``fused``
    [B, De + Dr] float32, see :func:`mixer_plugin.export.export_program`. The file is read again, by
    onnxruntime or PyTorch, and compared with the model on mixed batches, batches of one modality
    and single images before it takes its place.

    Args:
        model: wrapped by ``wrap_with_mixer``; also inside DDP or ``torch.compile``.
        out: the file; an older one stays as it was if anything fails.
        size: (height, width) of the images in pixels.

    Returns:
        The file, the widths of its outputs and their largest difference from the model's.

    Raises:
        MixERError: as ``export_program``; for another suffix, a folder that does not exist, a
            network too large for a file of ONNX, or a file whose outputs differ from the model's.
        MissingExtraError: if a package of the extra ``export`` is missing (ONNX alone).
        OSError: if the file cannot be written.
    """
    path = Path(out)
    if path.suffix not in SUFFIXES:
        raise MixERValueError(
            f"{path} ends in {path.suffix!r}; expected {' or '.join(SUFFIXES)}, which says what is "
            "written: ONNX, or a program of torch.export."
        )
    if not path.parent.is_dir():
        raise MixERValueError(f"{path.parent} is not a folder; create it before exporting.")
    if path.suffix == ".onnx":
        _need_onnx()
    embedder = make_embedder(model)
    if path.suffix == ".onnx":
        _check_bytes(embedder)
    program = trace(embedder, size)
    content, run = _as_onnx(program) if path.suffix == ".onnx" else _as_pt2(program)
    difference, widths = 0.0, (0, 0, 0)
    for modality in _BATCHES:
        images, own = example(size, modality)
        with torch.no_grad():
            expected = embedder(images, own)
        difference = max(difference, _difference(path, modality, expected, run(images, own)))
        widths = tuple(value.shape[1] for value in expected)
    with atomic_write(path) as file:
        file.write(content)
    return ExportReport(path, widths, difference)


def _difference(
    path: Path, modality: list[int], expected: tuple[Tensor, ...], found: list[Tensor]
) -> float:
    """The largest difference of the outputs, as a share of an output's largest value."""
    largest = 0.0
    for name, model, file in zip(OUTPUTS, expected, found, strict=True):
        same = model.shape == file.shape
        share = (
            float((model - file).abs().max() / model.abs().max().clamp(min=1e-12)) if same else 1
        )
        if not share <= _TOLERANCE:
            raise MixERRuntimeError(
                f"The exported model differs from the model: {name} of rows of modalities "
                f"{modality} is {list(file.shape)}, {share:.1e} apart; expected "
                f"{list(model.shape)} within {_TOLERANCE:.0e}. {path} was not written. Look for "
                "what the forward decides by values or by the size of a batch, or try the other "
                f"format ({' or '.join(SUFFIXES)})."
            )
        largest = max(largest, share)
    return largest


def _as_pt2(program: torch.export.ExportedProgram) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    module: Any = torch.export.load(buffer).module()
    return buffer.getvalue(), lambda images, modality: list(module(images, modality))


def _as_onnx(program: torch.export.ExportedProgram) -> tuple[bytes, Run]:
    import onnxruntime

    # Its optimizer drops sums with a small constant: the 1e-12 of a generalised mean, whose third
    # root is 1e-4 where a channel is dead. Runtimes optimize what they load.
    options: dict[str, Any] = {"optimize": False, "verbose": False}
    with _quiet():
        exported: Any = torch.onnx.export(
            program, input_names=["images", "modality"], output_names=list(OUTPUTS), **options
        )
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()  # source lines and paths of the machine that exported
    content = exported.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor, modality: Tensor) -> list[Tensor]:
        given = {"images": images.numpy(), "modality": modality.numpy()}
        return [torch.from_numpy(value) for value in session.run(OUTPUTS, given)]

    return content, run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what it does about opset versions and constants."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _need_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "export", "Exporting to ONNX")


def _check_bytes(embedder: nn.Module) -> None:
    held = sum(value.nbytes for value in embedder.state_dict().values())
    if held > _LARGEST:
        raise MixERValueError(
            f"The network holds {held / 2**30:.1f} GiB, and a file of ONNX at most 2. Export to "
            ".pt2, which has no such limit."
        )
