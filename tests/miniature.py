"""The smallest run of the benchmark that has everything in it: seconds on one core."""

from __future__ import annotations

from typing import Any

import torch

from mixer_plugin.benchmarks.training.fit import TrainingSet


def miniature(**changes: Any) -> dict[str, Any]:
    """Contents of a configuration file; ``changes`` take the place of its keys."""
    return {
        "name": "miniature",
        "data": {
            "synthetic": {
                "train_ids": 6,
                "val_ids": 1,
                "test_ids": 5,
                "visible_per_camera": 2,
                "infrared_per_camera": 3,
                "height": 32,
                "width": 16,
            }
        },
        "image_size": [32, 16],
        "baselines": {"saai-base": {"trunk": "small"}},
        "seeds": [0],
        "recipe": {
            "p": 3,
            "k": 2,
            "iterations": 12,
            "warmup": 2,
            "augmentation": {"flip": 0.0, "pad": 2},
        },
        **changes,
    }


def training_set(height: int, width: int, images: int = 6) -> TrainingSet:
    """Random images of four identities, ``images`` of each, by turns visible and infrared."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(images)
    modality = torch.tensor([0, 1]).repeat(2 * images)
    pixels = torch.randint(0, 256, (4 * images, 3, height, width), generator=g, dtype=torch.uint8)
    return TrainingSet(pixels, labels, modality, 1 + 2 * modality)
