"""The measurement of a step's cost on a CUDA device."""

from __future__ import annotations

import json

import pytest
import torch

from mixer_plugin.benchmarks.speed.step_overhead import main
from mixer_plugin.benchmarks.speed.step_variants import VARIANTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_the_command_measures_in_bf16_and_channels_last(tmp_path):
    out = tmp_path / "found.json"
    words = ["--device", "cuda", "--precision", "bf16", "--trunk", "small", "--size", "32", "16"]
    words += ["--p", "2", "--k", "2", "--rounds", "2", "--steps", "2", "--memory"]
    assert main([*words, "--out", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["device"] == torch.cuda.get_device_name()
    for network in found["networks"]:
        assert network["clock"] == "wall"
        assert network["flop_floor"] > 1
        assert network["case"]["precision"] == "bf16"
        assert network["case"]["channels_last"]
        peaks = [network["memory"][kind] for kind in VARIANTS]
        assert 0 < peaks[0] < peaks[1]
        assert peaks[0] < peaks[2]
