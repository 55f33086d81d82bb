"""What docs/benchmark.md shows is what the package takes."""

import re
from pathlib import Path

import yaml

from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.study_config import study_from_dict

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
