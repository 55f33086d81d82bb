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
    "name",
    [
        "depth",
        "evidence",
        "evidence-mpanet",
        "evidence-pretrained",
        "evidence-small",
        "head-length",
    ],
)
def test_the_longer_baseline_has_the_computing_of_the_heads(name):
    study = load_study(name)
    run, recipe = study.run, study.run.recipe
    heads = [v for v in run.variants.values() if v.mode == "f" and v.mixer is not None]
    lengths = sorted({(variant.recipe or run.heads.recipe).iterations for variant in heads})
    longer = sorted(v.recipe.iterations for n, v in run.variants.items() if n.startswith("longer"))
    longer_of = dict(zip(lengths, longer, strict=True))
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
        for variant in heads:
            net = create_baseline(baseline, case.classes, **case.network)
            config = dataclasses.replace(variant.mixer, frozen_base=True)
            wrap_with_mixer(net, "f", config=config).train()
            loop = FrozenBase(create_loop(baseline))
            loop.start_epoch(net, 0)
            own = harness.operations(lambda: loop(net, bare.batch).loss.backward())  # noqa: B023
            steps = (variant.recipe or run.heads.recipe).iterations
            assert own * steps <= step * (longer_of[steps] - recipe.iterations)
