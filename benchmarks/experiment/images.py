"""A job's images, decoded, and the features that its networks make of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixer_plugin.baselines import create_loop
from mixer_plugin.baselines.loops import INFRARED_CAMERAS
from mixer_plugin.benchmarks.experiment.cells import Job
from mixer_plugin.benchmarks.experiment.trained_network import Built
from mixer_plugin.benchmarks.training.fit import TrainingSet
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import detect_layout, read_images
from mixer_plugin.data.loading.cache import open_cache
from mixer_plugin.data.loading.decode import decode
from mixer_plugin.data.loading.transforms import Normalisation, normalise
from mixer_plugin.data.synthetic.body_shapes import read_shapes, write_shapes
from mixer_plugin.distributed.processes import count_processes
from mixer_plugin.errors import MixERWarning
from mixer_plugin.extraction import extract
from mixer_plugin.features import FeatureSet


def training_set(job: Job, out: Path, images: ImageList) -> TrainingSet:
    """Decodes a job's training images, with their body shapes if it needs them.

    Raises:
        MixERError: for images that are missing or cannot be read.
        OSError: if the folder cannot be written.
    """
    size = job.network.image_size
    labels, _ = images.labels()
    modality = torch.from_numpy(images.modality)
    shapes = None
    if create_loop(job.network.baseline).needs_shapes:
        shapes = decode(read_shapes(_shapes(job, out, images), images), size, shapes=True)
    return TrainingSet(
        open_cache(images, size, decoded_folder(job.cache, out)),
        torch.from_numpy(labels),
        modality,
        network_cameras(torch.from_numpy(images.cams), modality),
        shapes,
    )


def test_set(job: Job, out: Path) -> tuple[ImageList, Tensor]:
    """Reads and decodes a job's test images: the list, and uint8 [N, 3, H, W].

    Raises:
        MixERError: for images that are missing or cannot be read.
    """
    images = job.data.read_test(out, job.world, job.seed)
    return images, open_cache(images, job.network.image_size, decoded_folder(job.cache, out))


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


def network_cameras(cams: Tensor, modality: Tensor) -> Tensor:
    """Cameras as the ignite family numbers them, which tells modalities by 3 and 6.

    Args:
        cams: int64 [N], cameras as the data set numbers them.
        modality: int64 [N], 0 visible, 1 infrared.

    Returns:
        int64 [N]: ``cams`` themselves if they say so, else 3 for infrared and 1 for visible images.
    """
    dark = torch.isin(cams, torch.tensor(INFRARED_CAMERAS))
    if torch.equal(dark, modality == 1):
        return cams
    return torch.where(modality == 1, INFRARED_CAMERAS[0], 1)


def decoded_folder(cache: str | None, out: Path) -> Path:
    """Where a run keeps its decoded images: its cache, or else a folder among its results."""
    return out / "decoded" if cache is None else Path(cache)


def _shapes(job: Job, out: Path, images: ImageList) -> Path:
    """Folder of the body shapes of a job's training images; made if they are generated."""
    if job.shapes is not None:
        return Path(job.shapes)
    root = job.data.train_root(out, job.world, job.seed)
    folder = root.with_name(f"{root.name}-shapes")
    settings = job.data.train.settings(job.world, job.seed)
    assert settings is not None
    write_shapes(folder, settings, images, job.data.train.find_layout())
    return folder
