"""Paths that modules had before they moved stay importable, with the same objects."""

from __future__ import annotations

import importlib

import pytest

MOVED = {
    "mixer_plugin.data.layouts": "mixer_plugin.data.datasets.layouts",
    "mixer_plugin.data.image_checks": "mixer_plugin.data.datasets.image_checks",
    "mixer_plugin.data.samplers": "mixer_plugin.data.loading.samplers",
    "mixer_plugin.benchmarks.config": "mixer_plugin.benchmarks.experiment.config",
}


@pytest.mark.parametrize("path", MOVED)
def test_an_earlier_path_gives_the_same_objects(path):
    earlier, now = importlib.import_module(path), importlib.import_module(MOVED[path])
    for name in earlier.__all__:
        assert getattr(earlier, name) is getattr(now, name)
