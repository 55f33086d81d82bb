import pytest
import yaml

from mixer_plugin import MixERConfig, MixERError


def test_defaults_are_the_contracts():
    config = MixERConfig()
    assert (config.lambda_confusion, config.lambda_orthogonal, config.lambda_fusion) == (
        0.4,
        0.6,
        1.0,
    )
    assert (config.fusion_gradient, config.reversal_warmup) == ("apart", 1000)
    assert config.related_input == "detach"
    assert config.orthogonal_side == "related"
    assert config.reversal == 0.1


def test_paper_is_the_literal_setting():
    paper = MixERConfig.paper()
    assert (paper.related_input, paper.orthogonal, paper.orthogonal_side, paper.reversal) == (
        "flow",
        "signed",
        "both",
        1.0,
    )
    assert (paper.lambda_confusion, paper.lambda_orthogonal, paper.lambda_fusion) == (0.4, 0.6, 0.4)
    assert (paper.fusion_gradient, paper.reversal_warmup) == ("joint", 0)
    assert MixERConfig.paper(lambda_fusion=0.0).lambda_fusion == 0.0


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (MixERConfig(), "mixer-calibrated"),
        (MixERConfig.paper(), "mixer-calibrated"),
        (MixERConfig(related_labels="identity"), "mixer-calibrated"),
        (MixERConfig(related_heads="shared"), "mixer-calibrated"),
        (MixERConfig(control="shared-head"), "fused-calibrated"),
        (MixERConfig.recommended(), "fused-calibrated"),
    ],
)
def test_one_head_on_ordinary_labels_is_matched_for_every_pair(config, rule):
    assert config.rule == rule


def test_the_recommended_head_is_deep_and_shared():
    config = MixERConfig.recommended(related_width=0.5)
    assert config.head_names == ("shared",)
    assert (config.related_stages, config.related_width, config.doubles_labels) == (3, 0.5, False)
    assert config.lambda_confusion == 0


def test_yaml_round_trip(tmp_path):
    config = MixERConfig(reversal=0.25, fusion_gradient="joint", frozen_base=True, gather=True)
    config.to_yaml(tmp_path / "mixer.yaml")
    assert MixERConfig.from_yaml(tmp_path / "mixer.yaml") == config
    assert set(yaml.safe_load((tmp_path / "mixer.yaml").read_text())) == set(config.to_dict())
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert MixERConfig.from_yaml(tmp_path / "empty.yaml") == MixERConfig()
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(MixERError, match="expected `key: value` lines"):
        MixERConfig.from_yaml(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"lamda_fusion": 1.0}, "Did you mean 'lambda_fusion'"),
        ({"related_input": "detached"}, "Did you mean 'detach'"),
        ({"control": "shared_head"}, "Did you mean 'shared-head'"),
        ({"lambda_fusion": -1.0}, ">= 0"),
        ({"lambda_fusion": "much"}, ">= 0"),
        ({"confusion_dropout": 1.0}, r"\[0, 1\)"),
        ({"reversal_warmup": 0.5}, "whole number"),
        ({"confusion_hidden": -1}, "confusion_hidden is -1; expected a whole number"),
        ({"frozen_base": 1}, "true or false"),
        ({"gather": 1}, "MixERConfig.gather is 1; expected true or false"),
        ({"control": "erased-triplet", "frozen_base": True}, "Drop one"),
    ],
)
def test_errors_say_what_to_do(values, hint):
    with pytest.raises(MixERError, match=hint):
        MixERConfig.from_dict(values)


def test_it_is_frozen():
    with pytest.raises(AttributeError):
        MixERConfig().reversal = 1.0
