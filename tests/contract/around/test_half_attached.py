"""What attaches MixER only half is refused at the wrap, or told once in training."""

from __future__ import annotations

import copy
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint

from mixer_plugin import (
    MixERConfig,
    check_optimizer,
    load_base_state_dict,
    mixer_loss,
    mixer_param_groups,
    reset_heads,
    unwrap_mixer,
    wrap_with_mixer,
)
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.errors import MixERError, MixERRuntimeError, MixERTypeError, MixERWarning
from mixer_plugin.forward.self_check import EARLY, PATIENCE
from tests.contract.toys import TOYS, PlainNet, make_batch

BY_LOSS = {"classifier": "fc"}  # the modality comes with the loss
BY_FORWARD = {**BY_LOSS, "modality": "modality"}


def wrapped(mode="e2e", adapter=BY_FORWARD, net=None, **config):
    torch.manual_seed(0)
    net = PlainNet() if net is None else net
    given = GenericAdapter("layer4", "avgpool", **adapter)
    return wrap_with_mixer(net, mode, adapter=given, config=MixERConfig(**config), seed=1).train()


def step(model, batch, modality=None):
    """The loss of one step; MixER's alone where the base is frozen."""
    output = model(batch.images, batch.modality)
    if model.mixer.config.frozen_base:
        return mixer_loss(model, batch.labels, modality)
    _, logits = output
    return F.cross_entropy(logits, batch.labels) + mixer_loss(model, batch.labels, modality)


def told(work):
    """What the work warns of."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        work()
    return [str(each.message) for each in seen if issubclass(each.category, MixERWarning)]


# The wrap


def launcher(model):
    """As launchers of mixed precision do."""
    bare = model.forward
    model.forward = lambda *args, **options: bare(*args, **options)


def bound(model):
    model.forward = types.MethodType(type(model).forward, model)


@pytest.mark.parametrize("patch", [launcher, bound])
def test_a_forward_on_the_object_is_refused_before_the_wrap_and_heard_after_it(patch):
    model = PlainNet()
    patch(model)
    with pytest.raises(MixERTypeError, match="Wrap the model first"):
        wrapped(net=model)
    model = wrapped()
    patch(model)
    assert told(lambda: step(model, make_batch()).backward()) == []


def on_the_object(model):
    model.forward = lambda *given: PlainNet.forward(model, *given)


def on_its_class(model):
    model.__class__ = type("Own", (type(model),), {"forward": PlainNet.forward})


@pytest.mark.parametrize("replace", [on_the_object, on_its_class])
def test_a_forward_that_goes_past_mixer_is_told_once(replace):
    model = wrapped()
    replace(model)
    batch = make_batch()
    (said,) = told(lambda: [model(batch.images) for _ in range(3)])
    assert "trains nothing" in said
    with pytest.raises(MixERRuntimeError, match="No forward"):
        mixer_loss(model, batch.labels)


def test_a_scripted_and_a_traced_model_are_refused_and_run_on():
    images = make_batch().images
    for make in (torch.jit.script, lambda net: torch.jit.trace(net, images)):
        fixed = make(nn.ModuleDict({"a": nn.Conv2d(3, 3, 1)})["a"])
        before = fixed(images)
        with pytest.raises(MixERTypeError, match="scripted or traced"):
            wrap_with_mixer(fixed, adapter=GenericAdapter("layer4", "avgpool"))
        assert torch.equal(fixed(images), before)


def test_lazy_modules_are_refused_until_they_have_shapes():
    net = PlainNet()
    net.layer4[0] = nn.LazyConv2d(12, 3, padding=1)
    with pytest.raises(MixERTypeError, match="Run one forward"):
        wrapped(net=net)
    net(make_batch().images)
    step(wrapped(net=net), make_batch()).backward()


def test_several_layers_that_may_be_the_classifier_are_refused():
    net = PlainNet()
    net.projection = nn.Linear(12, 5)
    with pytest.raises(MixERError, match=r"'fc' \(6 columns\), 'projection' \(5 columns\)"):
        wrapped(net=net, adapter={})
    assert wrapped(net=net).mixer.num_classes == 6
    assert wrap_with_mixer(
        unwrap_mixer(net), num_classes=6, adapter=GenericAdapter("layer4", "avgpool")
    )
    assert check_optimizer(net, torch.optim.SGD(net.parameters(), lr=0.1)) == []


# Weights that hooks compute

MAKERS = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "pruning": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
}


@pytest.mark.parametrize("graph", [False, True], ids=["", "with a graph"])
@pytest.mark.parametrize("name", MAKERS)
def test_heads_train_the_parameters_that_a_weight_is_computed_from(name, graph):
    net = PlainNet()
    MAKERS[name](net.layer4[0])
    with torch.set_grad_enabled(graph):
        net(make_batch().images)  # leaves a computed weight
    model = wrapped(net=net)
    own = {key: value for key, value in model.mixer.heads.named_parameters() if value.requires_grad}
    before = {key: value.detach().clone() for key, value in own.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        step(model, make_batch(seed)).backward()
        optimizer.step()
    assert [key for key, value in own.items() if torch.equal(before[key], value)] == []
    copy.deepcopy(model.mixer.state_dict())


# Heads that do not train


def frozen_by_name(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("layer4", "fc")))


def test_heads_frozen_by_a_name_filter_are_told_by_check_and_in_training():
    model = wrapped("f")
    frozen_by_name(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    assert "do not require a gradient" in check_optimizer(model, optimizer)[0]
    (said,) = told(lambda: [step(model, make_batch()) for _ in range(2)])
    assert "freezes by name" in said
    model.mixer.requires_grad_(True)  # the advice
    optimizer.add_param_group(mixer_param_groups(model, 0.1)[0])
    assert check_optimizer(model, optimizer) == []


def test_heads_that_an_adapter_freezes_are_not_told():
    toy = TOYS["sgeil"]
    model = wrap_with_mixer(toy.build(), adapter=toy.adapter()).train()
    assert not all(p.requires_grad for p in model.mixer.parameters())
    assert told(lambda: toy.step_loss(model, toy.batch())) == []


@pytest.mark.parametrize(("steps", "frozen"), [(EARLY, False), (PATIENCE + 2, True)])
def test_heads_of_no_optimizer_are_told_after_some_forwards(steps, frozen):
    def train(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.01)
        for seed in range(steps):
            optimizer.zero_grad()
            step(model, make_batch(seed)).backward()
            optimizer.step()

    mode = "f" if frozen else "e2e"
    net = PlainNet()
    own = list(net.parameters())
    model = wrapped(mode, net=net, frozen_base=frozen)
    (said,) = told(lambda: train(own))
    assert "no optimizer steps them" in said
    model = wrapped(mode, frozen_base=frozen)
    assert told(lambda: train(model.parameters())) == []


# Weights loaded after the wrap


@pytest.mark.parametrize("config", [{}, {"frozen_base": True}, {"control": "shared-head"}], ids=str)
def test_a_checkpoint_loaded_after_the_wrap_is_told_and_reset_heads_follows_it(config):
    torch.manual_seed(5)
    published = PlainNet().state_dict()
    model = wrapped("f", **config)
    assert "reset_heads" in str(load_base_state_dict(model, published))
    (said,) = told(lambda: model.load_state_dict(published, strict=False))
    assert "no heads" in said
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert "reset_heads" in check_optimizer(model, optimizer)[0]
    (said,) = told(lambda: [step(model, make_batch()) for _ in range(2)])
    assert "has changed since" in said

    torch.manual_seed(7)
    fresh = PlainNet()
    fresh.load_state_dict(published)
    expected = wrapped("f", net=fresh, **config).mixer.state_dict()
    parameters = list(model.mixer.parameters())
    model.load_state_dict(published, strict=False)
    assert reset_heads(model) is model
    state = model.mixer.state_dict()
    assert int(state.pop("counter")) == 2  # the warm-up goes on
    assert all(torch.equal(value, expected[key]) for key, value in state.items())
    assert all(a is b for a, b in zip(parameters, model.mixer.parameters(), strict=True))
    assert told(lambda: step(model, make_batch())) == []
    assert check_optimizer(model, optimizer) == []


def test_heads_that_are_no_clones_need_no_reset():
    model = wrapped("f", related_blocks="low-rank")
    published = PlainNet().state_dict()
    assert "reset_heads" not in str(load_base_state_dict(model, published))
    assert told(lambda: model.load_state_dict(published, strict=False)) == []
    assert told(lambda: step(model, make_batch())) == []


def test_a_whole_checkpoint_is_not_told():
    trained = wrapped()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    step(trained, make_batch()).backward()
    optimizer.step()
    model = wrapped()
    assert told(lambda: model.load_state_dict(trained.state_dict())) == []
    assert told(lambda: step(model, make_batch())) == []
    assert "reset_heads" not in str(load_base_state_dict(model, PlainNet().state_dict()))


# Statistics


def test_statistics_that_update_bn_resets_are_filled_again_or_told():
    batches = [make_batch(seed) for seed in range(2)]
    model = wrapped()
    step(model, batches[0]).backward()

    class Both(nn.Module):
        """Calls the model as its loop does."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images, batches[0].modality)

    update_bn([batch.images for batch in batches], Both())
    assert all(int(head.norm.num_batches_tracked) == 2 for head in model.mixer.heads.values())

    model = wrapped(adapter=BY_LOSS)
    step(model, batches[0], batches[0].modality).backward()
    with pytest.raises(MixERRuntimeError, match="update_bn"):
        update_bn([batch.images for batch in batches], model)
    update_bn([batches[0].images], unwrap_mixer(copy.deepcopy(model)))  # the advice


# Between forward and loss


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("first", ["e2e", "f"])
def test_the_loss_is_of_the_mode_that_its_forward_had(first):
    other = {"e2e": "f", "f": "e2e"}[first]
    batch = make_batch()
    plain = wrapped(first)
    step(plain, batch).backward()
    model = wrapped(first)
    _, logits = model(batch.images, batch.modality)
    model.mixer.mode = other
    (F.cross_entropy(logits, batch.labels) + mixer_loss(model, batch.labels)).backward()
    found, expected = gradients(model), gradients(plain)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_forward_whose_loss_was_never_taken_is_told_once():
    model, batch = wrapped(), make_batch()
    (said,) = told(lambda: [model(batch.images, batch.modality) for _ in range(3)])
    assert "before mixer_loss was called" in said

    def advice():
        for _ in range(3):
            with torch.no_grad():
                model(batch.images, batch.modality)
            step(model, batch).backward()

    model = wrapped()
    assert told(advice) == []


# Activation checkpointing


def whole(toy, model, batch, reentrant):
    """Loss and gradients where the whole model is checkpointed."""
    call = model.forward

    def run(*given, **options):
        if reentrant is None:
            return call(*given, **options)
        given = [
            g.requires_grad_() if torch.is_tensor(g) and g.is_floating_point() else g for g in given
        ]
        return checkpoint(call, *given, use_reentrant=reentrant, **options)

    model.forward = run
    loss = toy.step_loss(model, batch)
    loss.backward()
    return loss.detach(), gradients(model), int(model.mixer.counter)


@pytest.mark.parametrize("mode", ["e2e", "f"])
@pytest.mark.parametrize("name", ["saai", "mpanet", "deen", "generic", "generic/dropout"])
def test_a_checkpointed_model_trains_as_the_plain_one(name, mode):
    toy = TOYS[name]

    def fresh():
        torch.manual_seed(0)
        model = wrap_with_mixer(toy.build(), mode, adapter=toy.adapter(), seed=1).train()
        torch.manual_seed(3)
        return model

    plain = whole(toy, fresh(), toy.batch(), None)
    found = whole(toy, fresh(), toy.batch(), False)
    assert torch.equal(found[0], plain[0])
    assert found[1].keys() == plain[1].keys()
    for key, value in found[1].items():
        torch.testing.assert_close(value, plain[1][key], msg=key)
    assert found[2] == plain[2] == 1


def test_a_reentrant_checkpoint_of_the_whole_model_is_refused():
    model, batch = wrapped(), make_batch()
    images = batch.images.requires_grad_()
    checkpoint(model, images, batch.modality, use_reentrant=True)
    with pytest.raises(MixERRuntimeError, match="use_reentrant=False"):
        mixer_loss(model, batch.labels)


def test_two_checkpointed_forwards_before_one_backward_are_refused():
    toy = TOYS["saai"]
    model = wrap_with_mixer(toy.build()).train()
    losses = [
        checkpoint(model, b.images, b.labels, cam_ids=b.cams, use_reentrant=False)[0]
        for b in map(toy.batch, range(2))
    ]
    with pytest.raises(MixERRuntimeError, match="Call backward after each"):
        sum(losses).backward()
