"""Which gradients reach the base, and what each option changes of them."""

from __future__ import annotations

import pytest
import torch

from mixer_plugin import MixERConfig, MixERError
from mixer_plugin.forward.terms import reversal
from tests.contract.attached import assert_equal, build, state, train, wrap


def base_gradients(toy, mode, config=None, then=None):
    """What the MixER loss alone leaves on the base's parameters."""
    model = wrap(toy, build(toy), mode, config=config).train()
    model.mixer.mode = then or mode
    compute, totals = model.mixer.loss, []

    def keep(*args, **kwargs):
        total, terms = compute(*args, **kwargs)
        totals.append(total)
        return total, terms

    model.mixer.loss = keep
    toy.step_loss(model, toy.batch())
    totals[0].backward()
    return model, {n: p.grad for n, p in model.named_parameters() if not n.startswith("mixer.")}


def in_trunk_and_stage(model, gradients):
    stage = model.mixer.adapter.stage_path(model)
    live = {n for n, g in gradients.items() if g is not None and g.abs().max() > 0}
    return any(not n.startswith(stage) for n in live), any(n.startswith(stage) for n in live)


@pytest.mark.parametrize("config", [MixERConfig(), MixERConfig.paper()], ids=["default", "paper"])
def test_e2e_gradients_reach_trunk_and_stage(toy, config):
    assert in_trunk_and_stage(*base_gradients(toy, "e2e", config)) == (True, True)


def test_mode_f_gradients_do_not_reach_the_base(toy):
    _, gradients = base_gradients(toy, "f")
    assert all(g is None or not g.any() for g in gradients.values())


def test_mode_switches_at_any_time(toy):
    for start, then in (("f", "e2e"), ("e2e", "f")):
        _, gradients = base_gradients(toy, start, then=then)
        assert any(g is not None and g.any() for g in gradients.values()) == (then == "e2e")
    with pytest.raises(MixERError, match="Did you mean 'e2e'"):
        wrap(toy, build(toy)).mixer.mode = "e2"


BASE_ITS_OWN = [
    {"related_input": "flow"},
    {"related_input": "reverse"},
    {"reversal": 1.0},
    {"reversal_warmup": 10},
    {"confusion_dropout": 0.0},
    {"confusion_hidden": 8},
    {"orthogonal": "signed", "orthogonal_side": "both"},
    {"orthogonal_side": "both"},
    {"fusion_gradient": "joint"},
    {"fusion_center": True},
    {"erased_identity": "add", "center_cluster_push": 0.6},
    {"lambda_fusion": 0.0},
]


def test_every_option_changes_what_reaches_the_base(toy):
    # Without a warm-up: at its first step nothing is reversed yet.
    first = {"reversal_warmup": 0}
    default = base_gradients(toy, "e2e", MixERConfig(**first))[1]
    for options in BASE_ITS_OWN:
        if not toy.resolved.base_losses and "erased_identity" in options:
            options = {"erased_identity": "skip"}  # a generic base has none of L_yme: auto adds it
        changed = base_gradients(toy, "e2e", MixERConfig(**{**first, **options}))[1]
        differences = [
            float((default[n] - changed[n]).abs().max())
            for n in default
            if default[n] is not None and changed[n] is not None
        ]
        assert max(differences) > 0, options


HEADS_OWN = [
    {"fusion_margin": 0.6},
    {"orthogonal": "squared"},
    {"orthogonal": "cka"},
    {"fusion_gradient": "joint"},
    {"fusion_center": True},
    {"center_cluster_scope": "joint"},
    {"center_cluster_pull": 0.5},
    {"center_cluster_push": 50.0},
    {"lambda_related": 0.5},
    {"lambda_orthogonal": 0.0},
    {"lambda_confusion": 0.0},
]


def test_every_option_of_the_heads_changes_the_loss(toy):
    def total(options):
        model = wrap(toy, build(toy), config=MixERConfig(**options), seed=0).train()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():  # a clone as it starts may give the base's own feature
            for p in model.mixer.heads.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        toy.step_loss(model, toy.batch())
        return float(model.mixer.terms["total"])

    default = total({})
    for options in HEADS_OWN:
        assert total(options) != default, options


def test_without_its_three_losses_nothing_moves_the_related_heads(toy):
    off = {"lambda_related": 0.0, "lambda_orthogonal": 0.0, "lambda_fusion": 0.0}
    model = wrap(toy, build(toy), config=MixERConfig(**off)).train()
    toy.step_loss(model, toy.batch()).backward()
    moved = [*model.mixer.heads.parameters(), *model.mixer.identity.parameters()]
    assert not any(p.grad.any() for p in moved if p.grad is not None)


def test_the_reversal_rises_over_its_warm_up(toy):
    model = wrap(toy, build(toy), config=MixERConfig(reversal=0.5, reversal_warmup=4)).train()
    scales = []
    for step in range(6):
        scales.append(float(reversal(model.mixer.config, model.mixer.counter)))
        toy.step_loss(model, toy.batch(step))
    assert scales == pytest.approx([0.0, 0.125, 0.25, 0.375, 0.5, 0.5])


def test_end_to_end_the_base_becomes_the_same_whatever_the_heads(toy):
    """By default the heads take gradients, and give the base none: a control's base is the same."""
    after = []
    for control in ("none", "shared-head"):
        model = wrap(toy, build(toy), "e2e", config=MixERConfig(control=control))
        train(toy, model, torch.optim.SGD(model.parameters(), lr=0.05), steps=2)
        after.append({n: v for n, v in state(model).items() if not n.startswith("mixer.")})
    assert_equal(*after)
    bare = build(toy)
    train(toy, bare, torch.optim.SGD(bare.parameters(), lr=0.05), steps=2)
    assert any(not torch.equal(v, state(bare)[n]) for n, v in after[0].items())
