"""The examples in docstrings run."""

import doctest
import importlib

import pytest

MODULES = [
    "mixer_plugin.attach",
    "mixer_plugin.baselines",
    "mixer_plugin.conformance.adapter_check",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    module.__dict__.setdefault("torch", importlib.import_module("torch"))
    found = doctest.testmod(module, verbose=False)
    assert found.attempted > 0
    assert found.failed == 0
