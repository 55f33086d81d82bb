"""Networks of three forms are attached in one line each, trained in both modes, and evaluated."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch

from mixer_plugin import MixERConfig, adapters, base_state_dict, extract_features, mixer_parameters
from mixer_plugin import wrap_with_mixer as wrap
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.errors import MixERError
from tests.unit.adapters.attaching import FORMS, batch_of, build, train

NAMES = {name: getattr(adapters, name) for name in adapters.__all__}


@pytest.fixture(params=list(FORMS))
def form(request):
    return FORMS[request.param]


def adapter_of(form):
    return eval(form.line, dict(NAMES))


def test_the_adapter_says_what_it_found_and_how_it_is_written(form):
    adapter = adapter_of(form)
    assert adapter.describe(build(form)) == form.found
    again = eval(repr(adapter), dict(NAMES))
    assert repr(again) == repr(adapter)
    assert {**vars(again), "line": ""} == {**vars(adapter), "line": ""}


@pytest.mark.parametrize("mode", ["e2e", "f"])
def test_one_line_attaches_and_a_step_trains_every_head(form, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = wrap(build(form), mode, adapter=adapter_of(form), seed=0).train()
    assert net.mixer.num_classes == 6
    batch = batch_of()
    torch.autograd.backward(form.step(net, batch))
    assert all(p.grad is not None for p in mixer_parameters(net))
    assert net.mixer.terms["modality_identity"] > 0


def test_mode_f_leaves_the_base_bit_equal_after_three_steps(form):
    plain, wrapped = build(form), wrap(build(form), "f", adapter=adapter_of(form), seed=0)
    train(form, plain)
    train(form, wrapped)
    assert plain.state_dict().keys() == base_state_dict(wrapped).keys()
    for key, value in base_state_dict(wrapped).items():
        assert torch.equal(value, plain.state_dict()[key]), key


def test_extraction_gives_what_the_network_returns(form):
    net = wrap(build(form), "f", adapter=adapter_of(form), seed=0)
    train(form, net, 2)
    batch = batch_of(5)
    order = torch.randperm(len(batch.labels), generator=torch.Generator().manual_seed(0))
    loader = [(batch.images[order], batch.labels[order], batch.cams[order])]
    found = extract_features(net, loader)
    plain = copy.deepcopy(net).eval()
    with torch.no_grad():
        if form is FORMS["two streams"]:
            own = plain(*batch.images.chunk(2))[1]
        else:
            own = plain(batch.images)
            own = own[1] if isinstance(own, tuple) else own
    cosines = torch.cosine_similarity(found.erased, own[order])
    assert cosines.min() > 0.9999
    assert found.related.shape == found.erased.shape
    embedded = net.mixer.adapter.embed(net.eval(), batch.images[order], batch.modality[order])
    torch.testing.assert_close(embedded.detach(), found.erased)


def test_a_wrapped_network_pickles_and_its_copy_trains(form):
    net, buffer = wrap(build(form), adapter=adapter_of(form), seed=0), io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert repr(again.mixer.adapter) == repr(net.mixer.adapter)
    train(form, net, 1)
    train(form, again, 1)
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_heads_of_two_stages_and_of_the_last_block(form):
    whole = eval(form.line.replace("base.blocks.2", "base.blocks"), dict(NAMES))
    for options in ({"related_stages": 2}, {"related_blocks": "last"}):
        net = build(form)
        adapter = whole if "related_blocks" in options else adapter_of(form)
        wrap(net, adapter=adapter, config=MixERConfig(**options), seed=0).train()
        torch.autograd.backward(form.step(net, batch_of()))
        assert all(p.grad is not None for p in mixer_parameters(net))


def test_a_trial_leaves_no_trace(form):
    net = build(form).train()
    next(net.children()).eval()
    modes = [m.training for m in net.modules()]
    state, numbers = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    adapter_of(form).try_on(net, (32, 16))
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_wrong_pooling_and_a_wrong_embedding_are_told_when_wrapping():
    form = FORMS["two streams"]
    for change, said in (
        (("GeM(3.0)", "mean_pool"), "pool=GeM"),
        ((' neck="bottleneck",', ""), None),
        (('"bottleneck:input", neck="bottleneck"', '"classifier:input"'), None),
    ):
        line = form.line.replace(*change)
        adapter = eval(line, dict(NAMES))
        if said:
            with pytest.warns(UserWarning, match=said):
                wrap(build(form), adapter=adapter)
        elif "classifier:input" in line:
            with pytest.raises(MixERError, match=r"In a trial evaluation: .*'classifier'.*ran 0"):
                wrap(build(form), adapter=adapter)
        else:  # the network returns the embedding before the neck as well
            wrap(build(form), adapter=adapter)


def test_another_embedding_than_the_networks_own_is_told():
    form = FORMS["loss inside"]
    line = form.line.replace('"bn_neck:input", neck="bn_neck"', '"bn_neck:input"')
    net = build(form)
    net.bn_neck.running_mean.uniform_(0, 1)
    with pytest.warns(UserWarning, match="is not what the network itself returns"):
        wrap(net, adapter=eval(line, dict(NAMES)))


def test_images_of_another_size_name_the_position_embedding():
    form = FORMS["plain tokens"]
    net, adapter = build(form), eval(form.line.replace("(32, 16)", "(48, 16)"), dict(NAMES))
    keys = list(net.state_dict())
    with pytest.raises(MixERError, match=r"'base.pos_embed' has 9 positions.*Build the network"):
        wrap(net, adapter=adapter)
    assert list(net.state_dict()) == keys


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"embedding": "neck:inputs"}, "path:input or path:output"),
        ({"embedding": "neck:input"}, "tells no pooling.*GeM"),
        ({"inputs": "two-streams"}, "expected 'single', 'two-stream'"),
        ({"loss": "forwards"}, "Did you mean 'forward'"),
        ({"base_losses": ["identiy"]}, "Did you mean 'identity'"),
    ],
)
def test_options_that_do_not_exist_are_refused(given, hint):
    with pytest.raises(MixERError, match=hint):
        GenericAdapter("layer4", **given)
