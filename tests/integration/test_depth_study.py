"""Studies of heads: their longer baseline has had the computing that the costliest heads had."""

from __future__ import annotations

import dataclasses

import pytest

from mixer_plugin import wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.benchmarks.experiment.study_config import load_study
from mixer_plugin.benchmarks.speed import harness
from mixer_plugin.benchmarks.speed.step_variants import Case, make_variant
from mixer_plugin.benchmarks.training.steps import FrozenBase


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["depth", "evidence", "evidence-mpanet", "evidence-pretrained", "evidence-small"]
)
def test_the_longer_baseline_has_the_computing_of_the_heads(name):
    study = load_study(name)
    run, recipe = study.run, study.run.recipe
    longer = run.variants["longer"].recipe
    for entry, options in run.baselines.items():
        baseline = entry.partition("@")[0]
        case = Case(
            baseline=baseline,
            mode="f",
            p=recipe.p,
            k=recipe.k,
            size=run.image_size,
            trunk=options["trunk"],
            classes=run.data.train.synthetic.train_ids,
        )
        bare = make_variant(case, "bare")
        step = harness.operations(bare.step)
        for variant in run.variants.values():
            if variant.mixer is None or variant.mode != "f":
                continue
            net = create_baseline(baseline, case.classes, **case.network)
            config = dataclasses.replace(variant.mixer, frozen_base=True)
            wrap_with_mixer(net, "f", config=config).train()
            loop = FrozenBase(create_loop(baseline))
            loop.start_epoch(net, 0)
            heads = harness.operations(lambda: loop(net, bare.batch).loss.backward())  # noqa: B023
            steps = (variant.recipe or run.heads.recipe).iterations
            assert heads * steps <= step * (longer.iterations - recipe.iterations)
