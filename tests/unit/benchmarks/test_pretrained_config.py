"""``evidence-pretrained``, and two entries of one baseline in a configuration."""

from __future__ import annotations

import pytest
import torch

from mixer_plugin.benchmarks.experiment.cells import plan_jobs
from mixer_plugin.benchmarks.experiment.config import config_from_dict
from mixer_plugin.benchmarks.experiment.networks import network_of
from mixer_plugin.benchmarks.experiment.study_config import load_study
from tests.miniature import miniature

START, RANDOM = "saai-base@pretrained", "saai-base@random"


def test_the_entries_differ_in_their_start_alone():
    study = load_study("evidence-pretrained")
    config = study.run
    assert config.seeds == (340, 341)
    assert config.image_size == (128, 64)
    given, other = (network_of(config, name) for name in (START, RANDOM))
    assert given.baseline == other.baseline == "saai-base"
    assert given.options == other.options
    assert (given.weights, other.weights) == ("imagenet", None)
    of_each = [
        [(job.name.removeprefix(name), job.cells) for job in study.jobs() if name in job.name]
        for name in (START, RANDOM)
    ]
    assert of_each[0] == of_each[1]
    evidence = load_study("evidence")
    assert set(study.variants) < set(evidence.variants)
    assert set(study.differences) < set(evidence.differences)


def test_all_trainings_see_the_pixels_that_the_weights_expect():
    config = load_study("evidence-pretrained").run
    for recipe in (config.recipe, config.heads.recipe):
        assert (recipe.augmentation.mean, recipe.augmentation.std) == ((0.5,) * 3, (0.5,) * 3)


def test_labels_are_of_the_run_and_not_of_the_network():
    entries = {"saai-base": {"trunk": "small"}, "saai-base@deep": {"trunk": "small-deep"}}
    config = config_from_dict(miniature(baselines=entries))
    assert {job.name for job in plan_jobs(config)} == {
        "saai-base-cues-seed0",
        "saai-base@deep-cues-seed0",
    }
    plain, deep = (network_of(config, name).build(4)[0] for name in entries)
    assert (len(plain.backbone.layer4), len(deep.backbone.layer4)) == (1, 4)
    assert {job.network.baseline for job in plan_jobs(config)} == {"saai-base"}


@pytest.mark.parametrize("recipe", ["public", {"iterations": 3}])
def test_a_labelled_entry_trains_by_its_baselines_recipe(recipe):
    entries = {"mpanet@a": {"trunk": "small"}}
    config = config_from_dict(miniature(baselines=entries, recipe=recipe))
    labels, modality = torch.arange(16).repeat_interleave(8), torch.tensor([0, 1]).repeat(64)
    p = 16 if recipe == "public" else 8
    assert config.recipe.plan(network_of(config, "mpanet@a").baseline, labels, modality).p == p
