"""Data: readers, the synthetic generator, batch samplers, transforms and the doctor.

Everything here needs only torch and numpy to import; reading and writing image files needs Pillow,
MATLAB files need SciPy (``pip install 'mixer-plugin[bench]'``).
"""

from __future__ import annotations

from mixer_plugin.data.doctor import Finding, diagnose_sysu
from mixer_plugin.data.images import ImageDataset, decode
from mixer_plugin.data.items import ImageList
from mixer_plugin.data.samplers import IdentitySampler
from mixer_plugin.data.synthetic import SyntheticConfig, WrittenSet, write_sysu
from mixer_plugin.data.sysu import read_sysu, sysu_permutation
from mixer_plugin.data.transforms import Augmentation, augment, normalise

__all__ = [
    "Augmentation",
    "Finding",
    "IdentitySampler",
    "ImageDataset",
    "ImageList",
    "SyntheticConfig",
    "WrittenSet",
    "augment",
    "decode",
    "diagnose_sysu",
    "normalise",
    "read_sysu",
    "sysu_permutation",
    "write_sysu",
]
