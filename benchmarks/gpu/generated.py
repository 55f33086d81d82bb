"""Short trainings by ``table3``'s own machinery on generated images, which are held in memory.

No file of an image is written or read, so that PyTorch, NumPy and PyYAML are all that they need.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixer_plugin.benchmarks.experiment.cells import cells_of, plan_jobs
from mixer_plugin.benchmarks.experiment.config import Table3Config, config_from_dict
from mixer_plugin.benchmarks.experiment.images import network_cameras
from mixer_plugin.benchmarks.experiment.run_cell import train_cell
from mixer_plugin.benchmarks.experiment.sources import CUES
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.training.fit import TrainingSet
from mixer_plugin.data.synthetic import plan, render

NETWORK = "saai-base"


def training_parser(doc: str | None, *, p: int, k: int, ids: int) -> argparse.ArgumentParser:
    """The options of a short training, with their defaults."""
    made = harness.speed_parser(doc, None)
    made.add_argument("--trunk", default="resnet50")
    made.add_argument("--size", type=int, nargs=2, default=[288, 144], help="height and width")
    made.add_argument("--p", type=int, default=p, help="identities per batch")
    made.add_argument("--k", type=int, default=k, help="images per identity and modality")
    made.add_argument("--ids", type=int, default=ids, help="identities, of 32 images each")
    return made


def config_of(
    options: argparse.Namespace, recipe: Mapping[str, Any], training: Mapping[str, Any]
) -> Table3Config:
    """The configuration of ``table3`` that trains the network on generated images.

    Args:
        options: of :func:`training_parser`.
        recipe: the section ``recipe`` of a configuration.
        training: the section ``training``.
    """
    height, width = options.size
    sizes = {"train_ids": options.ids, "val_ids": 1, "test_ids": 1}
    return config_from_dict(
        {
            "name": "gpu",
            "seeds": 0,
            "baselines": {NETWORK: {"trunk": options.trunk}},
            "image_size": [height, width],
            "data": {"synthetic": {**sizes, "height": height, "width": width}},
            "recipe": recipe,
            "training": {"log": "none", **training},
        }
    )


def images_of(config: Table3Config) -> TrainingSet:
    """The training images of a run's first seed, rendered and not encoded."""
    settings = config.data.train.settings(CUES, config.seeds[0])
    assert settings is not None
    rows = plan(settings)
    rows = rows[rows["split"] == "train"]
    pixels = torch.from_numpy(render(settings, rows)).permute(0, 3, 1, 2).contiguous()
    columns = [rows["index"], rows["infrared"], rows["cam"]]
    labels, modality, cams = (torch.from_numpy(own.astype(np.int64)) for own in columns)
    return TrainingSet(pixels, labels, modality, network_cameras(cams, modality))


def train(
    config: Table3Config,
    name: str,
    images: TrainingSet,
    every: int,
    on_loss: Callable[[float], None],
) -> None:
    """Trains a cell of a run by ``table3``'s trainer; its checkpoint is not kept.

    Args:
        config: the run.
        name: of the cell: ``baseline``, ``f`` or ``e2e``.
        images: to train on.
        every: steps from one call of ``on_loss`` to the next.
        on_loss: called with the loss of the step that was just made.
    """
    cell = cells_of(config)[name]

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            on_loss(event["loss"])

    with tempfile.TemporaryDirectory() as folder:
        train_cell(plan_jobs(config)[0].of(cell), cell, Path(folder), images, report, every)
