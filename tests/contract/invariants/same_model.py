"""The wrapped model is the same object, with the same outputs and, in mode f, the same training."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves

from mixer_plugin import MixERConfig, mixer_loss, mixer_state_dict
from tests.contract.attached import assert_equal, build, state, train, wrap


def test_wrap_returns_the_same_object_and_adds_only_mixer_keys(toy, mode):
    model = build(toy)
    cls = type(model)
    before = {
        "state": list(model.state_dict()),
        "parameters": [n for n, _ in model.named_parameters()],
        "modules": [n for n, _ in model.named_modules()],
    }
    assert wrap(toy, model, mode) is model
    assert isinstance(model, cls)
    assert type(model).__name__ == cls.__name__
    after = {
        "state": list(model.state_dict()),
        "parameters": [n for n, _ in model.named_parameters()],
        "modules": [n for n, _ in model.named_modules()],
    }
    for kind, names in before.items():
        assert after[kind][: len(names)] == names
        new = after[kind][len(names) :]
        assert new
        assert all(n == "mixer" or n.startswith("mixer.") for n in new)


def test_our_names_do_not_hit_the_name_filters_of_public_loops(toy):
    model = wrap(toy, build(toy))
    own = [n for n, _ in model.mixer.named_modules() if ".stage." not in n]
    own += [n for n, _ in model.mixer.named_parameters() if ".stage." not in n]
    for word in ("classifier", "bottleneck", "projs", "fc", "bn_neck"):
        assert not [n for n in own if word in n]


def test_attribute_writes_and_submodules_reach_the_model(toy):
    model = wrap(toy, build(toy))
    model.update_rate = 0.123
    assert model.update_rate == 0.123
    stage = model.mixer.adapter.stage_path(model)
    assert len(list(model.get_submodule(stage).parameters())) > 0


def test_eval_outputs_are_bit_equal(toy, mode):
    batch = toy.batch()
    plain, wrapped = build(toy), wrap(toy, build(toy), mode)
    assert torch.equal(toy.evaluate(plain.eval(), batch), toy.evaluate(wrapped.eval(), batch))


def test_train_outputs_are_bit_equal_and_metrics_keep_their_values(toy, mode):
    batch = toy.batch()
    plain, wrapped = build(toy).train(), wrap(toy, build(toy), mode).train()
    torch.manual_seed(3)
    expected = toy.forward(plain, batch)
    after_plain = torch.get_rng_state()
    torch.manual_seed(3)
    got = toy.forward(wrapped, batch)
    assert torch.equal(torch.get_rng_state(), after_plain)
    if toy.in_loop:
        pairs = zip(tree_leaves(expected), tree_leaves(got), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        return
    metrics = got[1]
    assert torch.equal(got[0], expected[0] + metrics["mixer/total"])
    for name, value in expected[1].items():
        assert torch.equal(torch.as_tensor(metrics[name]), torch.as_tensor(value))
    assert {n for n in metrics if n not in expected[1]} == {
        f"mixer/{n}" for n in wrapped.mixer.terms
    }


def test_total_is_the_weighted_sum_of_the_terms(toy, mode):
    model = wrap(toy, build(toy), mode).train()
    toy.step_loss(model, toy.batch())
    terms = dict(model.mixer.terms)
    total = terms.pop("total")
    assert {"modality_identity", "center_cluster", "orthogonal", "confusion", "fusion"} <= set(
        terms
    )
    weights = {"confusion": 0.4, "orthogonal": 0.6, "fusion": 1.0}
    expected = sum(weights.get(n, 1.0) * float(v) for n, v in terms.items())
    assert float(total) == pytest.approx(expected, rel=1e-5)
    added = "identity" not in model.mixer.adapter.base_losses
    assert ("identity" in terms) == (added and mode == "e2e")


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_mode_f_leaves_base_weights_and_buffers_bit_identical(toy, optimizer):
    options = {"lr": 0.01, "weight_decay": 5e-4}
    if optimizer is torch.optim.SGD:
        options["momentum"] = 0.9
    plain = build(toy)
    torch.manual_seed(7)
    train(toy, plain, optimizer(plain.parameters(), **options))
    wrapped = wrap(toy, build(toy), "f")
    start = mixer_state_dict(wrapped)
    start = {k: v.clone() for k, v in start.items()}
    train(toy, wrapped, optimizer(wrapped.parameters(), **options))
    assert_equal(state(plain), state(wrapped))
    moved = [k for k, v in mixer_state_dict(wrapped).items() if not torch.equal(v, start[k])]
    assert len(moved) > 5, "the heads did train"


def test_wrapping_draws_nothing_from_the_global_state(toy, mode):
    model = build(toy)
    before = torch.get_rng_state()
    wrap(toy, model, mode)
    assert torch.equal(torch.get_rng_state(), before)


def test_heads_follow_the_seed(toy):
    a, b = (mixer_state_dict(wrap(toy, build(toy), seed=5)) for _ in range(2))
    c = mixer_state_dict(wrap(toy, build(toy), seed=6))
    assert_equal(a, b)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_frozen_base_never_moves(toy):
    model = wrap(toy, build(toy), "f", config=MixERConfig(frozen_base=True))
    before, heads = state(model), {k: v.clone() for k, v in mixer_state_dict(model).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        model.train()
        batch = toy.batch(None)
        toy.look(model, batch)
        optimizer.zero_grad()
        mixer_loss(model, batch.labels).backward()
        optimizer.step()
    assert not any(m.training for n, m in model.named_modules() if not n.startswith("mixer"))
    assert model.mixer.training
    assert_equal(before, state(model))
    assert any(not torch.equal(v, heads[k]) for k, v in mixer_state_dict(model).items())
