"""Unwrapping leaves no trace, and only a wrapped model is unwrapped."""

from __future__ import annotations

import copy
import pickle

import pytest

from mixer_plugin import MixERError, unwrap_mixer
from mixer_plugin.forward.taps import TAP_HOOKS
from tests.contract.attached import build, traces, wrap


@pytest.mark.parametrize("how", ["direct", "deepcopy", "pickle", "after training"])
def test_unwrap_leaves_no_trace(toy, mode, how):
    model = build(toy).train()
    foreign = next(model.children())
    handle = foreign.register_forward_hook(lambda *_: None) if how != "pickle" else None
    before = traces(model)
    wrapped = wrap(toy, model, mode)
    if how == "deepcopy":
        wrapped = copy.deepcopy(wrapped)
    if how == "pickle":
        wrapped = pickle.loads(pickle.dumps(wrapped))
    if how == "after training":
        toy.step_loss(wrapped, toy.batch()).backward()
    assert traces(unwrap_mixer(wrapped)) == before
    assert handle is None or handle.id in next(wrapped.children())._forward_hooks
    toy.step_loss(wrapped, toy.batch())


def test_second_wrap_and_first_unwrap_are_refused(toy):
    model = build(toy)
    with pytest.raises(MixERError, match="not wrapped"):
        unwrap_mixer(model)
    wrap(toy, model)
    with pytest.raises(MixERError, match="already wrapped"):
        wrap(toy, model)
    unwrap_mixer(model)
    wrap(toy, model)


def test_no_hooks_of_others_in_the_clones(toy):
    model = build(toy)
    calls = []
    adapter = toy.resolved
    stage = model.get_submodule(adapter.entry(model, adapter.stage_path(model)))
    stage.register_forward_hook(lambda *_: calls.append(1))
    wrap(toy, model).train()
    toy.step_loss(model, toy.batch())
    assert len(calls) == toy.stage_calls
    assert sum(h in TAP_HOOKS for h in stage._forward_pre_hooks.values()) == 1
