"""Studies: what their files say, and what they refuse."""

import dataclasses
from types import SimpleNamespace

import pytest

from mixer_plugin.benchmarks.experiment.config import Variant, load_config
from mixer_plugin.benchmarks.experiment.study_config import load_study, study_from_dict
from mixer_plugin.benchmarks.length import lengths_of
from mixer_plugin.benchmarks.study import _tables
from mixer_plugin.commands.attach.names import NAMED
from mixer_plugin.config import MixERConfig
from mixer_plugin.errors import MixERValueError
from tests.miniature import miniature


def values(**changes):
    run = miniature()
    run["data"]["split"] = "val"
    return {
        **run,
        "protocol": "full",
        "heads": {"when": "after", "recipe": {"iterations": 2}},
        "variants": {"x": {}},
        **changes,
    }


def test_lists_become_variants_and_each_has_its_twins():
    study = study_from_dict(
        values(
            variants={"heads": {"mode": "f"}, "all": {"mixer": {"lambda_fusion": [0.4, 1.0]}}},
            twins={"ens": "all", "triplet": ["heads", "all-lambda_fusion=1.0"]},
            worlds=["cues", "no-cue"],
        )
    )
    own = ("heads", "all-lambda_fusion=0.4", "all-lambda_fusion=1.0")
    assert study.variants == own
    made = study.run.variants
    assert set(made) == {*own, *(f"{n}-ens" for n in own), f"{own[2]}-triplet"}
    assert made["all-lambda_fusion=1.0-ens"].mixer.control == "shared-head"
    assert made["all-lambda_fusion=1.0-triplet"].mixer.control == "erased-triplet"
    assert made["all-lambda_fusion=1.0-triplet"].mixer.lambda_fusion == 1.0
    assert study.twins("heads") == ("heads-ens",)
    assert study.twins(own[2]) == (f"{own[2]}-ens", f"{own[2]}-triplet")
    jobs = study.jobs()
    assert {job.world for job in jobs} == {"cues", "no-cue"}
    assert ("baseline", "heads", "heads-ens") in {
        tuple(cell.name for cell in job.cells) for job in jobs
    }
    assert len(jobs) == 2 * (1 + 5)


def test_baselines_of_other_lengths_are_variants_without_heads():
    study = study_from_dict(
        values(
            variants={
                "heads": {"mode": "f"},
                "longer": {"mode": "baseline", "recipe": {"iterations": [3, 4]}},
            },
            twins={"ens": "all"},
        )
    )
    assert study.variants == ("heads", "longer-iterations=3", "longer-iterations=4")
    assert set(study.run.variants) == {*study.variants, "heads-ens"}
    cells = {cell.name: cell for job in study.jobs() for cell in job.cells}
    longer = cells["longer-iterations=4"]
    assert (longer.mode, longer.mixer, longer.finish) == (None, None, None)
    assert longer.recipe.iterations == 4
    assert longer.recipe.p == cells["baseline"].recipe.p


AFTER = {"mode": "f", "base": "end"}


def test_heads_train_on_the_finished_network_that_they_name():
    study = study_from_dict(
        values(
            variants={
                "heads": {"mode": "f"},
                "end": {"mode": "e2e"},
                "end-heads": {**AFTER, "mixer": {"related_labels": "identity"}},
                "longer": {"mode": "baseline"},
            },
            seeds=[0],
        )
    )
    jobs = [[(cell.name, cell.starts_from) for cell in job.cells] for job in study.jobs()]
    assert jobs == [
        [("baseline", None), ("heads", "baseline")],
        [("end", None), ("end-heads", "end")],
        [("longer", None)],
    ]


def test_a_world_sets_the_share_of_modality_only_cues():
    study = study_from_dict(values(worlds=["cues", "cue=0.25", "no-cue"]))
    source = study.run.data.train
    made = {world: source.settings(world, 3) for world in study.worlds}
    assert [(s.visible_cue, s.infrared_cue) for s in made.values()] == [(1, 1), (0.25,) * 2, (0, 0)]
    assert {s.shared_cue for s in made.values()} == {1.0}


def test_a_proof_shows_the_differences_that_it_named_and_no_choice():
    study = study_from_dict(
        values(
            data={"synthetic": {}, "split": "test"},
            variants={"heads": {"mode": "f"}, "other": {"mode": "f"}},
            worlds=["cues", "no-cue"],
            differences={
                "heads over both": ["heads@mixer", "baseline@erased"],
                "without cues": ["no-cue/heads@mixer", "no-cue/baseline@erased"],
            },
        )
    )
    found = {
        (world, cell, 0): SimpleNamespace(
            rows=[
                SimpleNamespace(
                    setting="mix", rule=rule, calibration=None, query="infrared", mAP=level
                )
                for rule in ("erased", "mixer")
            ]
        )
        for world, cell, level in (
            ("cues", "baseline", 0.5),
            ("cues", "heads", 0.6),
            ("cues", "other", 0.7),
            ("no-cue", "baseline", 0.5),
            ("no-cue", "heads", 0.51),
        )
    }
    text = _tables(study, {"saai-base": found}, "test identities")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if " | " in line]
    assert [row for row in rows if row[0][:3] not in ("mAP", "---")] == [
        ["saai-base", "50.00"],
        ["heads over both", "+10.0"],
        ["saai-base", "50.00"],
        ["without cues", "+1.0"],
    ]


@pytest.mark.parametrize(("mode", "mixer"), [("e2e", None), ("baseline", MixERConfig())])
def test_a_variant_has_heads_or_is_a_baseline(mode, mixer):
    with pytest.raises(MixERValueError, match=f"A variant of mode '{mode}'"):
        Variant(mode=mode, mixer=mixer)


def test_every_rule_is_compared_and_a_longer_baseline_is_a_control():
    study = study_from_dict(
        values(variants={"heads": {"mode": "f"}, "longer": {"mode": "baseline"}}, seeds=[0])
    )
    rules = ("erased", "mixer", "fused", "erased-calibrated", "mixer-calibrated")
    found = {
        ("cues", cell, 0): SimpleNamespace(
            rows=[
                SimpleNamespace(
                    setting="mix", rule=rule, calibration=None, query="infrared", mAP=level
                )
                for rule in (rules if cell == "heads" else rules[::3])
            ]
        )
        for cell, level in (("baseline", 0.5), ("heads", 0.6), ("longer", 0.57))
    }
    text = _tables(study, {"saai-base": found}, "validation identities")
    rows = dict(line.strip("| ").split(" | ", 1) for line in text.splitlines() if " | " in line)
    assert rows["heads, fused − baseline"].startswith("+10.00")
    assert rows["heads − longer"].startswith("+3.00")
    assert rows["longer − baseline"].startswith("+7.00")
    assert rows["longer"].startswith("+7.00")  # the choice
    assert "heads, fused-calibrated − baseline" not in rows
    assert "longer, fused − baseline" not in rows


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variants": {}}, "no variants"),
        ({"twins": {"enss": "all"}}, "twins has 'enss'.*ens"),
        ({"twins": {"ens": ["y"]}}, "twins.ens has 'y'"),
        ({"worlds": ["none"]}, "worlds has 'none'"),
        ({"worlds": ["cue=1.5"]}, "worlds has 'cue=1.5'.*share in"),
        ({"variants": {"x": {"mode": "f", "base": "y"}}}, "Unknown network to train.*'y'"),
        ({"variants": {"x": {"mode": "f"}, "y": {"mode": "f", "base": "x"}}}, "Unknown network"),
        ({"variants": {"x": {}, "y": {"base": "x"}}}, "mode is f and heads.when is after"),
        (
            {"variants": {"x": {}, "y": {"mode": "f", "base": "x"}}, "heads": {"when": "joint"}},
            "mode is f and heads.when is after",
        ),
        ({"differences": {"a": ["x@mixer"]}}, "differences.a has 1 sides"),
        ({"differences": {"a": ["y@mixer", "x@mixer"]}}, "Unknown cell of differences.a 'y'"),
        ({"differences": {"a": ["x@mix", "x@mixer"]}}, "Did you mean 'mixer'"),
        ({"differences": {"a": ["no-cue/x@mixer", "x@mixer"]}}, "Unknown world of differences.a"),
        ({"controls": {"f-ens": [0]}}, "twins and worlds"),
        ({"variants": {"x": {"mixer": {"lambda_fuse": 1}}}}, "Did you mean 'lambda_fusion'"),
        ({"variants": {"x": {"mod": "f"}}}, "Did you mean 'mode'"),
        ({"variants": {"x": {"mode": "base"}}}, "Did you mean 'baseline'"),
        ({"variants": {"x": {"mode": "baseline", "mixer": {"reversal": 1}}}}, "has no heads"),
        ({"variants": {"e2e": {}}}, "is none of"),
        ({"protocol": None}, "protocol: full"),
        ({"data": {"synthetic": {}}}, "must not see the test identities"),
        ({"data": {"root": "x", "layout": "sysu", "split": "val"}, "worlds": ["no-cue"]}, "no-cue"),
        ({"data": {"synthetic": {}, "split": "vall"}}, "Did you mean 'val'"),
    ],
)
def test_what_a_study_refuses(changes, words):
    with pytest.raises(MixERValueError, match=words):
        study_from_dict(values(**changes))


def test_the_proof_in_miniature_is_the_proof_on_fewer_seeds_and_baselines():
    whole, small = load_study("evidence"), load_study("evidence-small")
    assert set(small.run.seeds) < set(whole.run.seeds)
    assert small.run.baselines == {"saai-base": whole.run.baselines["saai-base"]}
    same = {"name": "", "seeds": (0,), "baselines": small.run.baselines}
    alike = [
        dataclasses.replace(one, run=dataclasses.replace(one.run, **same)) for one in (whole, small)
    ]
    assert alike[0] == alike[1]


def test_the_proof_on_the_other_baseline_asks_the_same_of_a_longer_training():
    one, other = load_study("evidence"), load_study("evidence-mpanet")
    assert not set(one.run.seeds) & set(other.run.seeds)
    assert len(one.run.seeds) == len(other.run.seeds) == 8
    assert one.run.recipe.iterations in lengths_of(load_study("length"))
    assert other.run.recipe.iterations in lengths_of(load_study("length-mpanet"))
    assert set(other.run.variants) == {*one.run.variants, "thin"} - {"eq16"}
    assert {c for c in one.differences if c.left.cell != "eq16"} < set(other.differences)
    for name in set(one.run.variants) & set(other.run.variants) - {"longer"}:
        assert other.run.variants[name] == one.run.variants[name]
    added = [
        study.run.variants["longer"].recipe.iterations - study.run.recipe.iterations
        for study in (one, other)
    ]
    assert added[0] == added[1]


@pytest.mark.parametrize(
    "name",
    [
        *("levers", "heads", "depth", "head-length", "dose"),
        *("calibration", "calibration-poor", "calibration-random"),
        *("length", "length-mpanet", "length-demo", "length-calibration", "length-pretrained"),
    ],
)
def test_packaged_studies_are_valid(name):
    study = load_study(name)
    assert study.run.data.split == "val"
    assert len(study.run.seeds) >= 2


def test_the_literal_variant_is_the_papers_setting():
    assert load_study("levers").run.variants["all-paper"].mixer == MixERConfig.paper()


def test_packaged_ones_are_run_by_the_command_that_is_listed_with_them():
    listed = {kind: NAMED[kind]() for kind in ("configs", "studies")}
    assert {"demo", "paper/sysu-saai"} <= set(listed["configs"])
    assert {"evidence", "length"} <= set(listed["studies"])
    for name in listed["configs"]:
        assert load_config(name).baselines
        with pytest.raises(MixERValueError, match=rf"`mixer-plugin table3 --config {name}`"):
            load_study(name)
    for name in listed["studies"]:
        assert load_study(name).variants
        with pytest.raises(MixERValueError, match=rf"`python -m \S+\.study --config {name}`"):
            load_config(name)
