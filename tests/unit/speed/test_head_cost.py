"""Gains of heads out of a study's results, and what the heads cost."""

import json

import pytest

from mixer_plugin.benchmarks.experiment.study_config import load_study
from mixer_plugin.benchmarks.speed.head_cost import (
    costs,
    draw,
    gains,
    in_words,
    table,
    variants_of,
)
from mixer_plugin.errors import MixERValueError

STUDY = load_study("depth")


def test_heads_on_the_baseline_are_compared_and_nothing_else():
    names = set(variants_of(STUDY))
    assert {"f-related_stages=1", "f-shared-related_stages=3", "f-thin"} < names
    assert not {"longer", "triplet", "triplet-shared"} & names
    with pytest.raises(MixERValueError, match="trains no heads on its baseline"):
        variants_of(load_study("length"))


def test_gains_are_means_of_the_mixed_settings_by_seed(tmp_path):
    labels = ["baseline, calibrated − baseline"]
    for name, mixer in variants_of(STUDY).items():
        labels += [f"{name} − baseline", f"{name}, {mixer.rule} − baseline"]
    numbers = [
        {"difference": label, "setting": setting, "seeds": {"100": gain, "101": gain + 1}}
        for label in labels
        for setting, gain in {"cross": 90.0, "mix": 1.0, "mix-cam": 2.0, "mix-id": 6.0}.items()
    ]
    (tmp_path / "recipe.json").write_text(json.dumps(numbers))
    found = gains(STUDY, tmp_path)
    assert found["paper"]["f-thin"].values == {100: 3.0, 101: 4.0}
    assert set(found["own"]) == {"no head", *variants_of(STUDY)}


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(MixERValueError, match="Run the study first"):
        gains(STUDY, tmp_path)
    (tmp_path / "recipe.json").write_text("[]")
    with pytest.raises(MixERValueError, match="related_stages=1 − baseline"):
        gains(STUDY, tmp_path)


def test_heads_are_told_in_words():
    found = {name: in_words(mixer) for name, mixer in variants_of(STUDY).items()}
    assert found["f-related_stages=1"] == "per modality, 1 stage"
    assert found["f-thin"] == "shared, 3 stages, width 0.5"
    assert found["f-two-stream"] == "per modality, 3 stages, ordinary labels"
    assert len(set(found.values())) == len(found)


@pytest.mark.slow
def test_deeper_heads_cost_more_and_thinner_ones_less(tmp_path):
    found = costs(STUDY, "small", (48, 24))
    deep = [found[f"f-related_stages={n}"] for n in (1, 2, 3)]
    assert deep == sorted(deep)
    assert 0 < found["f-thin"] < found["f-shared-related_stages=3"] < deep[-1]
    rows = [{"variant": "no head", "gain_own": 0.5, "std_own": 0.1}] + [
        {"heads": n, "added_resnet50": c, "gain_paper": 1.0, "gain_own": 1.2,
         "std_paper": 0.1, "std_own": None, "cost_resnet50": c / deep[0]}
        for n, c in found.items()
    ]  # fmt: skip
    assert "| f-related_stages=1 | +1.0 ± 0.1 | +1.2 |" in table(rows)
    draw(rows, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().count("f-thin") == 1
