"""A study in miniature: trained, resumed, judged on validation identities, tested once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from mixer_plugin.baselines import create_baseline
from mixer_plugin.benchmarks.experiment.run_cell import lightest_heads
from mixer_plugin.benchmarks.study import main
from mixer_plugin.config import MixERConfig
from mixer_plugin.data.datasets.layouts import read_images
from mixer_plugin.features import FeatureSet
from tests.miniature import miniature


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    run = miniature(
        recipe={"p": 3, "k": 2, "iterations": 4, "warmup": 2, "augmentation": {"pad": 2}},
        protocol="full",
        heads={"when": "after", "recipe": {"iterations": 3}},
        variants={
            "heads": {"mode": "f"},
            "all": {"mode": "e2e", "mixer": {"lambda_fusion": [0.4, 1.0]}},
            "kept": {"mode": "e2e", "finish": False, "mixer": {"lambda_fusion": 0.4}},
            "triplet-alone": {"mode": "e2e", "mixer": {"lambda_confusion": 0}},
            "triplet-kept": {"mode": "e2e", "finish": False, "mixer": {"lambda_confusion": 0}},
            "on-all": {
                "mode": "f",
                "base": "all-lambda_fusion=0.4",
                "mixer": {"lambda_fusion": 0.4},
            },
        },
        twins={"ens": ["heads"], "triplet": ["all-lambda_fusion=1.0"]},
    )
    run["data"]["split"] = "val"
    run["data"]["synthetic"]["val_ids"] = 4
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


@pytest.fixture(scope="module")
def out(config):
    folder = config.parent / "out"
    assert main(["--config", str(config), "--out", str(folder)]) == 0
    return folder


def test_variants_are_judged_on_validation_identities(out):
    text = (out / "recipe.md").read_text()
    for row in ("heads − baseline", "all-lambda_fusion=1.0 − all-lambda_fusion=1.0-triplet"):
        assert f"| {row} |" in text
    assert "all-lambda_fusion=0.4 − heads" in text
    features = FeatureSet.load(out / "cells" / "saai-base-cues-seed0" / "heads.features.npz")
    root = out / "data" / "cues-seed0"
    ids = {split: set(read_images(root, split).ids.tolist()) for split in ("train", "val", "test")}
    assert set(features.ids.tolist()) == ids["val"]
    assert not ids["val"] & (ids["train"] | ids["test"])
    numbers = json.loads((out / "recipe.json").read_text())
    assert {len(each["seeds"]) for each in numbers} == {1}
    assert json.loads((out / "run_card.json").read_text())["protocol"].endswith("identities")


def test_heads_on_the_network_of_another_variant_are_those_of_its_finish(out):
    cells = out / "cells" / "saai-base-cues-seed0"
    end, on = (
        FeatureSet.load(cells / f"{name}.features.npz")
        for name in ("all-lambda_fusion=0.4", "on-all")
    )
    assert np.array_equal(end.erased, on.erased)
    assert np.array_equal(end.related, on.related)


@pytest.mark.parametrize(
    "names", [("all-lambda_fusion=0.4", "kept"), ("triplet-alone", "triplet-kept")]
)
def test_a_base_whose_heads_are_made_anew_is_that_of_any_heads(out, names):
    cells = out / "cells" / "saai-base-cues-seed0"
    anew, kept = (FeatureSet.load(cells / f"{name}.features.npz") for name in names)
    assert np.array_equal(anew.erased, kept.erased)
    assert not np.array_equal(anew.related, kept.related)


def test_a_base_is_trained_beside_the_lightest_heads_that_leave_it_as_it_is():
    paper, net = MixERConfig.paper(), create_baseline("saai-base", 4, trunk="small")
    assert lightest_heads(paper, net) == paper  # whose heads move the base
    deep = MixERConfig(related_stages=3, related_fusion="cross-attention")
    light = lightest_heads(deep, net)
    assert (light.related_blocks, light.related_fusion) == ("low-rank", "concatenation")
    tokens = create_baseline("saai-base", 4, trunk="vit-small")
    assert lightest_heads(deep, tokens) == MixERConfig()
    alone = MixERConfig(lambda_confusion=0)
    assert lightest_heads(alone, net).head_names == ()
    own_identity = MixERConfig(lambda_confusion=0, erased_identity="add")
    assert lightest_heads(own_identity, net).related_blocks == "low-rank"


def test_a_finished_study_trains_nothing_again(out, config, capsys):
    assert main(["--config", str(config), "--out", str(out)]) == 2
    assert "--resume" in capsys.readouterr().err
    cells = sorted(out.glob("cells/*/*.pt"))
    before = [path.stat().st_mtime_ns for path in cells]
    assert main(["--config", str(config), "--out", str(out), "--resume"]) == 0
    assert [path.stat().st_mtime_ns for path in cells] == before


def test_the_test_identities_are_read_for_one_variant_only(out, config, capsys):
    words = ["--config", str(config), "--out", str(out), "--test"]
    assert main([*words, "al"]) == 2
    assert "Unknown variant" in capsys.readouterr().err
    assert not (out / "test").exists()
    assert main([*words, "all-lambda_fusion=1.0"]) == 0
    text = (out / "test.md").read_text()
    assert "all-lambda_fusion=1.0 − baseline" in text
    assert "all-lambda_fusion=0.4" not in text
    stored = FeatureSet.load(
        out / "test" / "cells" / "saai-base-cues-seed0" / "all-lambda_fusion=1.0.features.npz"
    )
    tested = read_images(out / "data" / "cues-seed0", "test")
    assert set(stored.ids.tolist()) == set(tested.ids.tolist())
    assert main([*words, "all-lambda_fusion=1.0"]) == 0
    assert main([*words, "heads"]) == 2
    assert "were read for 'all-lambda_fusion=1.0'" in capsys.readouterr().err


def test_an_unfinished_study_is_not_tested(config, capsys):
    words = ["--config", str(config), "--out", str(config.parent / "none"), "--test", "heads"]
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
