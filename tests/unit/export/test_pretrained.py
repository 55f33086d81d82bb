"""``save_pretrained`` and ``from_pretrained``: heads in a folder of their own."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from mixer_plugin import MixERConfig, base_state_dict, mixer_state_dict, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.errors import MixERError, MixERValueError, MixERWarning
from mixer_plugin.export import from_pretrained, save_pretrained
from mixer_plugin.export.pretrained import CONFIG, WEIGHTS
from tests.contract.attached import assert_equal, build, traces, train, wrap
from tests.contract.toys import TOYS, PlainNet

pytest.importorskip("safetensors", reason="needs safetensors (the extra 'export')")


def trained(toy, mode="e2e", **options):
    """A toy whose heads and base have learned for some steps."""
    model = wrap(toy, build(toy), mode, **options)
    train(toy, model, torch.optim.SGD(model.parameters(), lr=0.05), steps=3)
    return model


def bare_twin(toy, model):
    """The same base in another object, without MixER."""
    twin = build(toy, seed=5)
    twin.load_state_dict(base_state_dict(model))
    return twin


@pytest.mark.parametrize("name", ["saai", "sgeil", "generic"])
@pytest.mark.parametrize("mode", ["e2e", "f"])
def test_heads_come_back_bit_for_bit(name, mode, tmp_path):
    toy = TOYS[name]
    config = MixERConfig(related_heads="shared", lambda_fusion=0.5)
    model = trained(toy, mode, config=config)
    assert save_pretrained(model, tmp_path / "heads") == tmp_path / "heads"
    assert {path.name for path in (tmp_path / "heads").iterdir()} == {WEIGHTS, CONFIG}
    twin = bare_twin(toy, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_pretrained(twin, tmp_path / "heads", adapter=toy.adapter()) is twin
    assert_equal(dict(model.state_dict()), dict(twin.state_dict()))
    assert (twin.mixer.mode, twin.mixer.config) == (mode, config)
    assert twin.mixer.seed == model.mixer.seed
    # A model that is wrapped already keeps the options of its losses.
    other = wrap(toy, bare_twin(toy, model), mode, config=MixERConfig(related_heads="shared"))
    from_pretrained(other, tmp_path / "heads")
    assert_equal(mixer_state_dict(model), mixer_state_dict(other))
    assert other.mixer.config == MixERConfig(related_heads="shared")


def test_training_goes_on_as_if_nothing_had_happened(tmp_path):
    toy = TOYS["generic"]
    model = trained(toy, "f")
    save_pretrained(model, tmp_path)
    twin = from_pretrained(bare_twin(toy, model), tmp_path, adapter=toy.adapter())
    for each in (model, twin):
        train(toy, each, torch.optim.SGD(each.parameters(), lr=0.05), steps=3)
    assert_equal(dict(model.state_dict()), dict(twin.state_dict()))


def test_heads_of_pseudo_labels(tmp_path):
    toy = TOYS["saai"]
    model = trained(toy)
    model.mixer.set_num_classes(11)
    save_pretrained(model, tmp_path)
    twin = from_pretrained(bare_twin(toy, model), tmp_path)
    assert (twin.mixer.num_classes, twin.mixer.pseudo_labels) == (11, True)
    assert_equal(mixer_state_dict(model), mixer_state_dict(twin))


def test_another_base_is_told(tmp_path):
    toy = TOYS["saai"]
    save_pretrained(trained(toy), tmp_path)
    with pytest.warns(MixERWarning, match="not those that the heads"):
        from_pretrained(build(toy, seed=6), tmp_path)


class Wider(PlainNet):
    """A stage of other channels."""

    def __init__(self):
        super().__init__()
        self.layer4[0] = torch.nn.Conv2d(8, 16, 3, padding=1)
        self.layer4[1], self.neck = torch.nn.BatchNorm2d(16), torch.nn.BatchNorm1d(16)
        self.fc = torch.nn.Linear(16, 6, bias=False)


def plain_adapter(**changes):
    given = {"neck": "neck", "classifier": "fc", "modality": "modality", "earlier": ["stem"]}
    return GenericAdapter("layer4", "avgpool", **{**given, **changes})


@pytest.mark.parametrize(
    ("make", "adapter", "message"),
    [
        (Wider, plain_adapter(), r"attached_to|widths: \[12, 12\] → \[16, 16\]"),
        (PlainNet, plain_adapter(neck=None), "taps.erased_after: 'neck:output' → 'avgpool:output'"),
        (PlainNet, "auto", r"attached by adapter=GenericAdapter\(\"layer4\""),
        (lambda: build(TOYS["saai"]), "auto", "pass adapter="),
    ],
)
def test_another_structure_is_refused_and_stays(make, adapter, message, tmp_path):
    save_pretrained(trained(TOYS["generic"]), tmp_path)
    model = make()
    before, state = traces(model), dict(model.state_dict())
    with pytest.raises(MixERValueError, match=message):
        from_pretrained(model, tmp_path, adapter=adapter)
    assert traces(model) == before
    assert_equal(state, dict(model.state_dict()))


def test_a_wrapped_model_of_other_heads_is_refused_and_stays(tmp_path):
    toy = TOYS["generic"]
    save_pretrained(trained(toy), tmp_path)
    for options, message in (
        ({"config": MixERConfig(related_heads="shared")}, "related_heads: 'per-modality'"),
        ({"num_classes": 9}, "num_classes: 6 → 9"),
    ):
        model = wrap(toy, build(toy), "f", **options)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(MixERValueError, match=message):
            from_pretrained(model, tmp_path)
        assert_equal(state, dict(model.state_dict()))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_damage_and_other_versions_are_refused(tmp_path):
    toy = TOYS["generic"]
    save_pretrained(trained(toy), tmp_path)
    weights, config = (tmp_path / WEIGHTS).read_bytes(), (tmp_path / CONFIG).read_bytes()

    def refused(message, kind=MixERValueError):
        model = build(toy)
        before = traces(model)
        with pytest.raises(kind, match=message):
            from_pretrained(model, tmp_path, adapter=toy.adapter())
        assert traces(model) == before
        (tmp_path / WEIGHTS).write_bytes(weights)
        (tmp_path / CONFIG).write_bytes(config)

    (tmp_path / WEIGHTS).write_bytes(weights[:-1])
    refused("damaged, or not the one")
    (tmp_path / CONFIG).write_bytes(config[:40])
    refused("is damaged")
    edit(tmp_path / CONFIG, mixer_plugin="99.0.0")
    refused("written by mixer-plugin 99.0.0")
    edit(tmp_path / CONFIG, format=2)
    refused("format 2")
    edit(tmp_path / CONFIG, colour="red")
    refused("Unknown key 'colour'")
    edit(tmp_path / CONFIG, config={"related_headz": "shared"})
    refused("Did you mean 'related_heads'", MixERError)
    (tmp_path / CONFIG).unlink()
    refused("No such file", OSError)


def test_tensors_that_do_not_fit_leave_no_wrap(tmp_path):
    import hashlib

    from safetensors.torch import load, save

    toy = TOYS["generic"]
    save_pretrained(trained(toy), tmp_path)
    held = load((tmp_path / WEIGHTS).read_bytes())
    held.pop("mixer.identity.weight")
    (tmp_path / WEIGHTS).write_bytes(save(held))
    edit(tmp_path / CONFIG, weights=hashlib.sha256(save(held)).hexdigest())
    model = build(toy)
    before = traces(model)
    with pytest.raises(MixERError, match=r"1 missing: mixer\.identity\.weight"):
        from_pretrained(model, tmp_path, adapter=toy.adapter())
    assert traces(model) == before


def test_an_interrupted_save_keeps_the_earlier_heads_or_says_so(tmp_path, monkeypatch):
    toy = TOYS["generic"]
    first = trained(toy)
    save_pretrained(first, tmp_path)
    second = wrap_with_mixer(bare_twin(toy, first), "f", adapter=toy.adapter(), seed=8)
    monkeypatch.setattr("mixer_plugin.export.pretrained.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_pretrained(second, tmp_path)
    with pytest.raises(MixERValueError, match="checksums differ"):
        from_pretrained(bare_twin(toy, first), tmp_path, adapter=toy.adapter())
