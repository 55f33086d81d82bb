"""What docs/benchmark.md shows is what the package takes."""

import dataclasses
import re
from pathlib import Path

import yaml

from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.study_config import study_from_dict
from mixer_plugin.benchmarks.training.options import TrainingOptions

PAGE = Path(__file__).resolve().parents[3] / "docs/benchmark.md"


def test_the_configurations_are_valid():
    found = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert "twins" in found[1]
    study = study_from_dict(yaml.safe_load(found.pop(1)))
    assert len(study.variants) == 3
    first, market = (config_from_dict(yaml.safe_load(text)) for text in found)
    assert first.data.protocol == "llcm/sampled"
    assert first.recipe.dataset == "llcm"
    assert market.data.test.root == "/data/Market-1501"


def test_every_training_option_is_named():
    (row,) = re.findall(r"^\| `training` \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    named = re.findall(r"`(\w+)`", row.split(". The docstring")[0])
    assert sorted(named) == sorted(item.name for item in dataclasses.fields(TrainingOptions))
