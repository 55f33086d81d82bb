"""Gains of lighter heads out of a study's results, and what the heads cost."""

import json

import pytest

from mixer_plugin.benchmarks.experiment.study import load_study
from mixer_plugin.benchmarks.speed.head_cost import costs, draw, gains
from mixer_plugin.errors import MixERValueError

STUDY = load_study("heads")


def test_gains_are_means_of_the_mixed_settings_by_seed(tmp_path):
    numbers = [
        {"difference": label, "setting": setting, "seeds": {"100": gain, "101": gain + 1}}
        for name in STUDY.variants
        for label in (f"{name} − baseline", f"{name}, calibrated")
        for setting, gain in {"cross": 90.0, "mix": 1.0, "mix-cam": 2.0, "mix-id": 6.0}.items()
    ]
    (tmp_path / "recipe.json").write_text(json.dumps(numbers))
    found = gains(STUDY, tmp_path, "paper")
    assert found["stage"].values == {100: 3.0, 101: 4.0}
    assert set(found) == set(STUDY.variants)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(MixERValueError, match="Run the study first"):
        gains(STUDY, tmp_path, "paper")
    (tmp_path / "recipe.json").write_text("[]")
    with pytest.raises(MixERValueError, match="stage − baseline"):
        gains(STUDY, tmp_path, "paper")


def test_a_baseline_has_no_heads_to_count():
    with pytest.raises(MixERValueError, match="longer has no heads"):
        costs(load_study("depth"), "small", (48, 24))


@pytest.mark.slow
def test_lighter_heads_cost_less(tmp_path):
    found = costs(STUDY, "small-deep", (48, 24))
    assert found["stage"] > found["last-block"] > found["low-rank-32"] > found["low-rank-16"] > 0
    assert found["last-block"] < found["stage"] / 3
    rows = [
        {"variant": n, "added_resnet50": c, "gain_paper": 1.0, "gain_calibrated": 1.0,
         "std_paper": 0.1, "std_calibrated": None}
        for n, c in found.items()
    ]  # fmt: skip
    draw(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
