"""The smallest run of the benchmark that has everything in it: seconds on one core."""

from __future__ import annotations

from typing import Any


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
