"""Features of a network's images, by one process or several together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.benchmarks.experiment.trained_network import Built
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import detect_layout, read_images
from mixer_plugin.data.loading.transforms import Normalisation, normalise
from mixer_plugin.distributed.processes import count_processes
from mixer_plugin.errors import MixERValueError, MixERWarning
from mixer_plugin.extraction import extract
from mixer_plugin.features import FeatureSet
from mixer_plugin.io.options import fit


def decoded_batches(
    images: ImageList, pixels: Tensor, normalisation: Normalisation, batch: int = 512
) -> Iterator[tuple[Any, ...]]:
    """Batches (images, ids, cams, modality, paths) of decoded images, uint8 [N, 3, H, W]."""
    labels = [torch.from_numpy(own) for own in (images.ids, images.cams, images.modality)]
    for start in range(0, len(pixels), batch):
        rows = slice(start, start + batch)
        yield (
            normalise(pixels[rows], normalisation),
            *(own[rows] for own in labels),
            images.paths[rows],
        )


def features_of(model: nn.Module, batches: Iterable[Any]) -> FeatureSet:
    """Erased and, where the model is wrapped, related features.

    The processes of a group call this together, with the same batches; each gets all features.
    """
    return extract(model, batches, share=count_processes() > 1)


def images_of(
    checkpoint: str | os.PathLike[str],
    built: Built,
    root: str | os.PathLike[str],
    split: str,
    *,
    layout: str | None,
    trial: int | None,
) -> tuple[ImageList, int | None]:
    """Lists images for a network of ``table3``.

    Warns where the network's file does not say whom it was trained on.

    Returns:
        The images, and RegDB's split that they are of.

    Raises:
        MixERValueError: if the folder cannot be read, or the network was trained on persons that
            are not of a training split.
    """
    layout, known = layout or detect_layout(root), built.trained_on
    if trial is None and layout == "regdb":
        trial = (known and known.trial) or 1
    images = read_images(root, split, layout=layout, trial=trial)
    if known is None:
        warnings.warn(
            f"{checkpoint} is of an older version and does not say which persons it was trained "
            "on: whether these are among them is not checked.",
            MixERWarning,
            stacklevel=3,
        )
    elif split not in ("train", "trainval"):
        known.check_unknown(images, layout, trial)
    return images, trial


def check_reading(batch: int, workers: int, device: str) -> None:
    """Raises :class:`MixERValueError` for numbers and devices that nothing can be read with."""
    fit(batch, int, "batch", {"bounds": {"minimum": 1, "maximum": 2**20}})
    fit(workers, int, "workers", {"bounds": {"minimum": 0, "maximum": 256}})
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or not (index or "0").isdecimal():
        raise MixERValueError(f"device is {device!r}; expected cpu or cuda.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise MixERValueError(f"PyTorch sees no GPU {index or 0} here. Use device cpu.")
