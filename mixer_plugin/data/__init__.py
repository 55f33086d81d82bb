"""Data: readers, the synthetic generator, batch samplers, transforms and the doctor.

Everything here needs only torch and numpy to import; reading and writing image files needs Pillow,
MATLAB files need SciPy (``pip install 'mixer-plugin[demo]'``).
"""

from __future__ import annotations

from mixer_plugin.data.datasets.doctor import diagnose
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import detect_layout, read_images
from mixer_plugin.data.datasets.llcm import read_llcm
from mixer_plugin.data.datasets.market import read_market
from mixer_plugin.data.datasets.own_images import OwnImages, read_own_images
from mixer_plugin.data.datasets.regdb import read_regdb
from mixer_plugin.data.datasets.sysu import read_sysu
from mixer_plugin.data.loading.decode import ImageDataset, decode
from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.data.loading.script_arrays import (
    ScriptArrays,
    read_script_arrays,
    write_script_arrays,
)
from mixer_plugin.data.loading.transforms import Augmentation
from mixer_plugin.data.synthetic import SyntheticConfig, write_layout

__all__ = [
    "Augmentation",
    "IdentitySampler",
    "ImageDataset",
    "ImageList",
    "OwnImages",
    "ScriptArrays",
    "SyntheticConfig",
    "decode",
    "detect_layout",
    "diagnose",
    "read_images",
    "read_llcm",
    "read_market",
    "read_own_images",
    "read_regdb",
    "read_script_arrays",
    "read_sysu",
    "write_layout",
    "write_script_arrays",
]
