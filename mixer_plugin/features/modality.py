"""Visible or infrared."""

from __future__ import annotations

from enum import IntEnum


class Modality(IntEnum):
    """The sensor of an image; ``modality`` tensors hold these values as int64.

    Example:
        >>> Modality(1).name
        'INFRARED'
    """

    VISIBLE = 0
    INFRARED = 1
