"""Data: readers, the synthetic generator, batch samplers, transforms and the doctor.

Everything here needs only torch and numpy to import; reading and writing image files needs Pillow,
MATLAB files need SciPy (``pip install 'mixer-plugin[bench]'``).
"""

from __future__ import annotations

from mixer_plugin.data.datasets.doctor import Finding, diagnose
from mixer_plugin.data.datasets.image_list import ImageList
from mixer_plugin.data.datasets.layouts import detect_layout, read_images
from mixer_plugin.data.datasets.llcm import read_llcm
from mixer_plugin.data.datasets.market import read_market
from mixer_plugin.data.datasets.regdb import read_regdb
from mixer_plugin.data.datasets.sysu import read_sysu
from mixer_plugin.data.loading.batches import LoadedBatch, load_batches
from mixer_plugin.data.loading.cache import open_cache
from mixer_plugin.data.loading.decode import ImageDataset, decode
from mixer_plugin.data.loading.pipeline import Pipeline
from mixer_plugin.data.loading.public_augmentation import augmentation_of
from mixer_plugin.data.loading.samplers import IdentitySampler
from mixer_plugin.data.loading.script_arrays import (
    ScriptArrays,
    read_script_arrays,
    write_script_arrays,
)
from mixer_plugin.data.loading.transforms import Augmentation, normalise
from mixer_plugin.data.synthetic import (
    SyntheticConfig,
    WrittenSet,
    layout_config,
    write_layout,
)

__all__ = [
    "Augmentation",
    "Finding",
    "IdentitySampler",
    "ImageDataset",
    "ImageList",
    "LoadedBatch",
    "Pipeline",
    "ScriptArrays",
    "SyntheticConfig",
    "WrittenSet",
    "augmentation_of",
    "decode",
    "detect_layout",
    "diagnose",
    "layout_config",
    "load_batches",
    "normalise",
    "open_cache",
    "read_images",
    "read_llcm",
    "read_market",
    "read_regdb",
    "read_script_arrays",
    "read_sysu",
    "write_layout",
    "write_script_arrays",
]
