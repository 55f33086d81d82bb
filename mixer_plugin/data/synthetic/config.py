"""Configuration of a synthetic data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mixer_plugin.data.synthetic.factors import STRENGTH
from mixer_plugin.errors import MixERTypeError, MixERValueError, closest

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
        test_visible_per_camera: The same for validation and test identities.
        test_infrared_per_camera: The same for validation and test identities.
        height: Pixels; at least 16.
        width: Pixels; at least 8.
        shared_cue: Share of the attributes that both modalities show which the identity fixes, in
            [0, 1]; the rest is drawn anew for each image. The distribution of the attributes over
            all images does not depend on it.
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
    """

    seed: int = 0
    train_ids: int = 150
    val_ids: int = 30
    test_ids: int = 80
    visible_per_camera: int = 4
    infrared_per_camera: int = 8
    test_visible_per_camera: int = 2
    test_infrared_per_camera: int = 4
    height: int = 64
    width: int = 32
    shared_cue: float = 1.0
    visible_cue: float = 1.0
    infrared_cue: float = 1.0
    pose: float = 1.0
    light: float = 1.0
    camera_shift: float = 1.0
    noise: float = 1.0
    blur: float = 1.0
    occlusion: float = 0.3

    def __post_init__(self) -> None:
        minimum = {"seed": 0, "height": 16, "width": 8}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                if isinstance(value, bool) or not isinstance(value, int):
                    raise MixERTypeError(f"{field.name} must be an integer, got {value!r}.")
                low = minimum.get(field.name, 1)
                if value < low:
                    raise MixERValueError(f"{field.name} must be at least {low}, got {value}.")
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise MixERTypeError(f"{field.name} must be a number, got {value!r}.")
            high = 1.0 if field.name.endswith("_cue") or field.name == "occlusion" else 10.0
            if not 0.0 <= value <= high:
                raise MixERValueError(f"{field.name} must be in [0, {high:g}], got {value!r}.")
            object.__setattr__(self, field.name, float(value))
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
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise MixERValueError(
                    f"SyntheticConfig has no setting {name!r}.{closest(name, known)}"
                )
        return cls(**values)


def digest(config: SyntheticConfig) -> str:
    """SHA-256 of all that decides the pixels: configuration, generator version, strengths."""
    content = {"version": VERSION, "config": config.to_dict(), "strength": STRENGTH}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
