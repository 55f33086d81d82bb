"""Features of single image files, for threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mixer_plugin.commands.shared.model import NamedModel
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.loading.decode import check_reading, decode
from mixer_plugin.extraction import Reading, runner
from mixer_plugin.features import FeatureSet


@contextmanager
def image_embedder(
    found: NamedModel, reading: Reading, device: str
) -> Iterator[Callable[[Path, int, int, int], FeatureSet]]:
    """Within the block, what makes features of an image file, its modality, camera and identity.

    Threads may call it; the model runs one image at a time.
    """
    check_reading(reading.size)
    where, turn = torch.device(device), threading.Lock()
    model = found.model.to(where)
    with runner(model, reading, where, found.bare, found.output, found.adapter) as run:

        def embed(path: Path, modality: int, camera: int, id: int) -> FeatureSet:
            image = ImageList(path.parent, (str(path),), [id], [camera], [modality])  # type: ignore[arg-type]
            labels = [torch.from_numpy(each) for each in (image.ids, image.cams, image.modality)]
            pixels = decode(image, reading.size)
            with turn:
                return run(pixels, labels)

        yield embed
