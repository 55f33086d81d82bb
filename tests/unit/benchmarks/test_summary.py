"""What a run shows first: its rows, its words, and that they fit a terminal."""

from types import SimpleNamespace

import pytest

from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.summary import summary, systems_of
from tests.miniature import miniature

SETTINGS = ("uni", "cross", "mix", "mix-cam", "mix-cam-id", "mix-id")


def run(**changes):
    return config_from_dict(
        miniature(
            seeds=[0, 1],
            heads={"when": "after", "recipe": {"iterations": 2}},
            **changes,
        )
    )


def measured(levels, config):
    """Level by row and seed, the same in every setting."""
    systems = systems_of(config)
    return {
        (systems[name].world, systems[name].cell, seed): SimpleNamespace(
            rows=[
                SimpleNamespace(
                    setting=setting,
                    rule=rule,
                    calibration=None,
                    query="infrared",
                    protocol="sysu/all/single",
                    mAP=value,
                )
                for setting in SETTINGS
                for rule in {systems[name].rule, "erased"}
            ]
        )
        for name, values in levels.items()
        for seed, value in enumerate(values)
    }


def test_a_control_has_the_calibration_of_the_heads():
    config = run(
        rule="fused-calibrated",
        variants={"longer": {"mode": "baseline"}},
        controls={"f-ens": [0], "erased-triplet": [1]},
    )
    found = {name: (s.cell, s.rule) for name, s in systems_of(config).items()}
    assert found == {
        "baseline": ("baseline", "erased"),
        "(f)+MixER": ("f", "fused-calibrated"),
        "e2e+MixER": ("e2e", "fused-calibrated"),
        "control: longer, calibrated": ("longer", "erased-calibrated"),
        "control: a shared head, calibrated": ("f-ens", "fused-calibrated"),
        "control: erased-triplet, calibrated": ("erased-triplet", "erased-calibrated"),
    }
    assert {s.rule for s in systems_of(run()).values()} == {"erased", "mixer"}
    assert "control: baseline, calibrated" in systems_of(run(rule="mixer-calibrated"))


def test_each_difference_is_said_with_the_seeds_that_do_not_follow():
    config = run(rule="fused-calibrated", variants={"longer": {"mode": "baseline"}})
    levels = {
        "baseline": (0.40, 0.50),
        "(f)+MixER": (0.42, 0.52),
        "e2e+MixER": (0.39, 0.55),
        "control: longer, calibrated": (0.42, 0.52),
    }
    text = summary(config, {"saai-base": measured(levels, config)})
    words = " ".join(text.split())
    assert "(f)+MixER over baseline: Cross +2.0, Mix +2.0, Mix-Cam-ID +2.0" in words
    assert "e2e+MixER over baseline: Cross +2.0 (1 of 2 seeds)" in words
    assert "(f)+MixER over longer, calibrated: Cross 0 exactly" in words
    rows = [line.split() for line in text.splitlines() if line.startswith("baseline ")]
    assert rows == [["baseline", *["45.0"] * 5]]


@pytest.mark.parametrize("count", [1, 6])
def test_the_longest_run_fits_a_terminal(count):
    config = run(
        rule="fused-calibrated",
        variants={"longer": {"mode": "baseline"}},
        controls={"f-ens": [0, 1], "erased-triplet": [0, 1]},
    )
    levels = {name: (0.9, 0.1) for name in systems_of(config)}
    results = measured(levels, config)
    text = summary(config, {f"network-{i}": results for i in range(count)})
    assert max(map(len, text.splitlines())) <= 80
    assert f"network-{count - 1}, mean of seeds 0, 1. sysu/all/single, infrared query" in text
