"""A job's images, decoded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mixer_plugin.baselines import create_loop
from mixer_plugin.baselines.loops import INFRARED_CAMERAS
from mixer_plugin.benchmarks.experiment.cells import Job
from mixer_plugin.benchmarks.training.fit import TrainingSet
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.loading.cache import open_cache
from mixer_plugin.data.loading.decode import decode
from mixer_plugin.data.synthetic.body_shapes import read_shapes, write_shapes


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
