"""Configuration of a synthetic data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mixer_plugin.data.synthetic.factors import STRENGTH
from mixer_plugin.errors import MixERValueError
from mixer_plugin.io.options import build, check_options, option

VERSION = 1
"""Raised whenever the same configuration would give other pixels."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """One synthetic data set.

    Attributes:
        seed: Seed of everything, the cameras included; >= 0.
        train_ids: Identities of the training split.
        val_ids: Identities of the validation split.
        test_ids: Identities of the test split.
        visible_per_camera: Images per training identity in each of the four visible cameras.
        infrared_per_camera: Images per training identity in each of the two infrared cameras.
        test_visible_per_camera: Images per validation or test identity in each visible camera.
        test_infrared_per_camera: Images per validation or test identity in each infrared camera.
        height: Pixels; at least 16.
        width: Pixels; at least 8.
        shared_cue: How far the identity fixes the attributes that both modalities show: its share
            of their variance, in [0, 1]; the rest is drawn anew for each image. The distribution
            of the attributes over all images does not depend on it.
        visible_cue: The same for the attributes that only visible images show.
        infrared_cue: The same for the attributes that only infrared images show.
        pose: Factor on place, size, lean, turn and limbs' swing; 0 is none, 1 the default.
        light: Factor on gain, tone curve, gradients and colour temperature of an image.
        camera_shift: Factor on all differences between cameras.
        noise: Factor on the sensor noise.
        blur: Factor on the blur.
        occlusion: Probability of an occluding rectangle, in [0, 1].

    Raises:
        MixERTypeError: A value is not a number, or not an integer where one is needed.
        MixERValueError: A value is out of its range.

    Example:
        >>> SyntheticConfig(train_ids=16, visible_cue=0.0).to_dict()["train_ids"]
        16
    """

    seed: int = option(0, minimum=0)
    train_ids: int = option(150, minimum=1)
    val_ids: int = option(30, minimum=1)
    test_ids: int = option(80, minimum=1)
    visible_per_camera: int = option(4, minimum=1)
    infrared_per_camera: int = option(8, minimum=1)
    test_visible_per_camera: int = option(2, minimum=1)
    test_infrared_per_camera: int = option(4, minimum=1)
    height: int = option(64, minimum=16, maximum=4096)
    width: int = option(32, minimum=8, maximum=4096)
    shared_cue: float = option(1.0, minimum=0, maximum=1)
    visible_cue: float = option(1.0, minimum=0, maximum=1)
    infrared_cue: float = option(1.0, minimum=0, maximum=1)
    pose: float = option(1.0, minimum=0, maximum=10)
    light: float = option(1.0, minimum=0, maximum=10)
    camera_shift: float = option(1.0, minimum=0, maximum=10)
    noise: float = option(1.0, minimum=0, maximum=10)
    blur: float = option(1.0, minimum=0, maximum=10)
    occlusion: float = option(0.3, minimum=0, maximum=1)

    def __post_init__(self) -> None:
        check_options(self)
        for item in fields(self):
            if item.type == "float":
                object.__setattr__(self, item.name, float(getattr(self, item.name)))
        if self.train_ids + self.val_ids + self.test_ids > 9999:
            raise MixERValueError(
                "The layouts name identities with four digits: train_ids + val_ids + test_ids "
                f"must be at most 9999, got {self.train_ids + self.val_ids + self.test_ids}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a plain dictionary of numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SyntheticConfig:
        """The configuration from a dictionary; absent keys take their defaults.

        Args:
            values: Names and numbers, as ``to_dict`` gives them.

        Returns:
            The configuration.

        Raises:
            MixERValueError: A key is unknown, or a value is out of its range.
            MixERTypeError: A value is of the wrong kind.
        """
        return build(cls, values, cls.__name__)


def digest(config: SyntheticConfig) -> str:
    """SHA-256 of all that decides the pixels: configuration, generator version, strengths."""
    content = {"version": VERSION, "config": config.to_dict(), "strength": STRENGTH}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
