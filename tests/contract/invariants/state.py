"""State dicts, optimizers and controls."""

from __future__ import annotations

import pytest
import torch

from mixer_plugin import (
    MixERConfig,
    MixERError,
    base_parameters,
    base_state_dict,
    check_optimizer,
    load_base_state_dict,
    mixer_param_groups,
    mixer_parameters,
    mixer_state_dict,
)
from tests.contract.attached import assert_equal, build, state, wrap
from tests.contract.toys import CLASSES


def test_state_dicts(toy):
    plain, model = build(toy), wrap(toy, build(toy, seed=1))
    assert set(base_state_dict(model)) | set(mixer_state_dict(model)) == set(model.state_dict())
    with pytest.raises(RuntimeError, match="load_base_state_dict"):
        model.load_state_dict(plain.state_dict())
    checkpoint = {"net": {f"module._orig_mod.{k}": v for k, v in plain.state_dict().items()}}
    heads = {k: v.clone() for k, v in mixer_state_dict(model).items()}
    report = load_base_state_dict(model, checkpoint)
    assert len(report.loaded) == len(plain.state_dict())
    assert_equal(plain.state_dict(), base_state_dict(model))
    assert_equal(heads, mixer_state_dict(model))
    build(toy).load_state_dict(base_state_dict(model))  # strict
    twin = wrap(toy, build(toy, seed=2))
    twin.load_state_dict(model.state_dict())  # strict, with the heads
    assert_equal(model.state_dict(), twin.state_dict())


def test_load_base_state_dict_loads_nothing_that_does_not_fit(toy):
    model = wrap(toy, build(toy))
    before = state(model)
    bad = {k: v + 1 if v.is_floating_point() else v for k, v in before.items()}
    first = next(iter(bad))
    del bad[first]
    bad["extra.weight"] = torch.zeros(1)
    with pytest.raises(MixERError, match=r"1 missing.*1 unexpected"):
        load_base_state_dict(model, bad)
    assert_equal(before, state(model))
    report = load_base_state_dict(model, bad, strict=False)
    assert report.missing == (first,)
    assert report.unexpected == ("extra.weight",)
    with pytest.raises(MixERError, match="no state dict"):
        load_base_state_dict(model, {"epoch": 3})


def test_parameters_split_cleanly_and_check_optimizer_speaks(toy):
    model = wrap(toy, build(toy))
    heads, base = mixer_parameters(model), base_parameters(model)
    assert not {id(p) for p in heads} & {id(p) for p in base}
    assert len(heads) + len(base) == sum(p.requires_grad for p in model.parameters())
    assert check_optimizer(model, torch.optim.SGD(model.parameters(), lr=0.1)) == []
    optimizer = torch.optim.SGD(base, lr=0.1)
    assert "in no optimizer group" in check_optimizer(model, optimizer)[0]
    optimizer.add_param_group(mixer_param_groups(model, lr=0.01, momentum=0.9)[0])
    (finding,) = check_optimizer(model, optimizer)
    assert "0.01" in finding
    assert "0.1" in finding


@pytest.mark.parametrize("control", ["shared-head", "erased-triplet"])
def test_controls(toy, control):
    model = wrap(toy, build(toy), config=MixERConfig(control=control)).train()
    loss = toy.step_loss(model, toy.batch())
    loss.backward()
    terms = set(model.mixer.terms)
    if control == "shared-head":
        assert list(model.mixer.heads) == ["shared"]
        assert model.mixer.identity.weight.shape[0] == CLASSES
        assert "modality_identity" in terms
    else:
        assert terms == {"fusion", "total"}
        assert not list(model.mixer.parameters())
        with pytest.raises(MixERError, match="no heads"):
            wrap(toy, build(toy), "f", config=MixERConfig(control=control))
