"""When a baseline is finished."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from mixer_plugin.benchmarks.experiment.config import load_config
from mixer_plugin.benchmarks.experiment.study_config import load_study
from mixer_plugin.benchmarks.length import SETTINGS, curve_of, draw, finished_at, lengths_of, table
from mixer_plugin.errors import MixERValueError


def curve(*values, steps=(100, 150, 200, 300, 450)):
    return {n: {0: value - 1, 1: value + 1} for n, value in zip(steps, values, strict=True)}


def test_a_baseline_is_finished_where_half_as_many_steps_again_bring_less_than_a_point():
    assert finished_at([curve(10, 20, 30, 30.5, 30.9)]) == 200
    assert finished_at([curve(10, 20, 30, 30.5, 31.1)]) == 300
    assert finished_at([curve(10, 10.5, 10.7, 10.8, 10.9)]) == 100
    # Every curve has to have levelled off, and there must be a longer training to say so.
    assert finished_at([curve(30, 30, 30, 30, 30), curve(10, 20, 30, 30.5, 31.1)]) == 300
    assert finished_at([curve(10, 20, 30, 40, 50)]) is None
    # Lengths are whole: half as many again, to a hundredth.
    assert finished_at([curve(30, 30, steps=(788, 1181))]) == 788
    assert finished_at([curve(30, 30, steps=(788, 1170))]) is None


def test_the_lengths_of_the_study_are_those_of_its_baselines():
    lengths = lengths_of(load_study("length"))
    assert list(lengths) == [500, 1000, 1500, 2250]
    assert lengths[500] == "baseline"
    assert lengths[2250] == "steps-iterations=2250"
    with pytest.raises(MixERValueError, match="no variants with mode baseline"):
        lengths_of(load_study("levers"))


@pytest.mark.parametrize(
    ("curve", "vouched"),
    [
        ("length", "evidence"),
        ("length-mpanet", "evidence-mpanet"),
        ("length-demo", "demo"),
        ("length-calibration", "calibration"),
        ("length-pretrained", "evidence-pretrained"),
    ],
)
def test_a_curve_is_of_the_network_that_it_vouches_for(curve, vouched):
    study, run = load_study(curve), load_run(vouched)
    for name, options in study.run.baselines.items():
        assert run.baselines.get(name, options) == options
    assert set(study.run.baselines) & set(run.baselines)
    assert run.recipe.iterations in lengths_of(study)
    assert study.run.image_size == run.image_size
    assert without_length(study.run.recipe) == without_length(run.recipe)
    assert persons(study.run) == persons(run)
    assert study.run.data.split == "val"
    assert not set(study.run.seeds) & set(run.seeds)


def load_run(name):
    return load_config(name) if name == "demo" else load_study(name).run


def without_length(recipe):
    return dataclasses.replace(recipe, iterations=1)


def persons(run):
    """The generator's options, apart from how many persons are kept for which split."""
    return dataclasses.replace(run.data.train.synthetic, val_ids=10, test_ids=10)


def test_the_table_says_where_a_baseline_is_finished(tmp_path):
    lengths = {100: "baseline", 150: "longer", 300: "longest"}

    def results(value):
        return SimpleNamespace(
            rows=[
                SimpleNamespace(setting=s, rule="erased", calibration=None, mAP=value)
                for s in SETTINGS
            ]
        )

    measured = {
        ("cues", cell, seed): results(value + 0.02 * seed)
        for cell, value in (("baseline", 0.3), ("longer", 0.4), ("longest", 0.405))
        for seed in (0, 1)
    }
    own = {setting: curve_of(measured, lengths, setting) for setting in SETTINGS}
    text = table({"saai-base": own})
    assert "| saai-base, Cross | 31.0 | 41.0 | 41.5 |" in text
    assert "Finished at: saai-base: 150." in text
    pytest.importorskip("matplotlib", reason="matplotlib is absent")
    for name in ("one.svg", "two.svg"):
        draw({"saai-base": own}, tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert first == second
    assert b"<svg" in first
