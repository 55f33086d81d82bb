"""The invariants of attaching, for every row of the toy table."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import mixer_plugin
from mixer_plugin import (
    MixERConfig,
    MixERError,
    base_parameters,
    base_state_dict,
    check_optimizer,
    load_base_state_dict,
    mixer_features,
    mixer_loss,
    mixer_param_groups,
    mixer_parameters,
    mixer_state_dict,
    unwrap_mixer,
    wrap_with_mixer,
)
from mixer_plugin.taps import TAP_HOOKS
from tests.contract.toys import CLASSES, TOYS


@pytest.fixture(params=list(TOYS))
def toy(request):
    return TOYS[request.param]


@pytest.fixture(params=["e2e", "f"])
def mode(request):
    return request.param


def build(toy, seed=0):
    torch.manual_seed(seed)
    return toy.build()


def wrap(toy, model, mode="e2e", **options):
    return wrap_with_mixer(model, mode, adapter=toy.adapter(), **options)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("mixer.")}


def assert_equal(a, b):
    assert list(a) == list(b)
    for key in a:
        assert torch.equal(a[key], b[key]), key


# 1 — the same object, with everything where it was


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


# 2 — outputs


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
    weights = {"confusion": 0.4, "orthogonal": 0.6, "fusion": 0.4}
    expected = sum(weights.get(n, 1.0) * float(v) for n, v in terms.items())
    assert float(total) == pytest.approx(expected, rel=1e-5)
    added = "identity" not in model.mixer.adapter.base_losses
    assert ("identity" in terms) == (added and mode == "e2e")


# 3 — non-interference in mode f


def train(toy, model, optimizer, steps=20):
    torch.manual_seed(11)
    model.train()
    loop = toy.loop()
    for step in range(steps):
        if step % 7 == 0:
            loop.start_epoch(model, step // 7)
        batch = toy.batch(None)  # from the global random state, as loaders and augmentations do
        loss = toy.step_loss(model, batch, loop)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.stepped(model)


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


# 4 — gradients


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
    {"orthogonal": "signed", "orthogonal_side": "both"},
    {"orthogonal_side": "both"},
    {"fusion_distance": "euclidean"},
    {"erased_identity": "add", "center_cluster_push": 0.6},
    {"lambda_fusion": 0.0},
]


@pytest.mark.parametrize("options", BASE_ITS_OWN, ids=str)
def test_every_option_changes_what_reaches_the_base(toy, options):
    if not toy.resolved.base_losses and "erased_identity" in options:
        options = {"erased_identity": "skip"}  # a generic base has none of L_yme: auto adds it
    default, changed = (
        base_gradients(toy, "e2e", MixERConfig(**given))[1] for given in ({}, options)
    )
    differences = [
        float((default[n] - changed[n]).abs().max())
        for n in default
        if default[n] is not None and changed[n] is not None
    ]
    assert max(differences) > 0


@pytest.mark.parametrize(
    "options",
    [
        {"fusion_margin": 0.6},
        {"orthogonal": "squared"},
        {"center_cluster_scope": "joint"},
        {"center_cluster_pull": 0.5},
        {"center_cluster_push": 50.0},
        {"center_cluster_normalise": True},
        {"lambda_orthogonal": 0.0},
        {"lambda_confusion": 0.0},
    ],
    ids=str,
)
def test_every_option_of_the_heads_changes_the_loss(toy, options):
    totals = []
    for given in ({}, options):
        model = wrap(toy, build(toy), config=MixERConfig(**given), seed=0).train()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():  # a clone as it starts may give the base's own feature
            for p in model.mixer.heads.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        toy.step_loss(model, toy.batch())
        totals.append(float(model.mixer.terms["total"]))
    assert totals[0] != totals[1]


def test_the_reversal_rises_over_its_warm_up(toy):
    model = wrap(toy, build(toy), config=MixERConfig(reversal=0.5, reversal_warmup=4)).train()
    scales = []
    for step in range(6):
        scales.append(float(model.mixer._reversal()))
        toy.step_loss(model, toy.batch(step))
    assert scales == pytest.approx([0.0, 0.125, 0.25, 0.375, 0.5, 0.5])


# 5 — evaluation costs nothing extra


def test_heads_do_not_run_in_eval_unless_asked(toy):
    model = wrap(toy, build(toy)).eval()
    calls = []
    for head in model.mixer.heads.values():
        head.stage.register_forward_hook(lambda *_: calls.append(1))
    batch = toy.batch()
    plain = toy.look(model, batch)
    assert not calls
    assert model.mixer.record is None
    with model.mixer.matching():
        asked = toy.look(model, batch)
    assert len(calls) == 2
    assert torch.equal(plain, asked)
    features = mixer_features(model)
    assert features.related.shape[0] == len(batch.images)
    assert features.fused.shape[1] == features.erased.shape[1] + features.related.shape[1]
    assert torch.equal(features.modality, batch.modality)
    toy.look(model, batch)
    assert len(calls) == 2


def test_the_fused_cosine_is_the_mean_of_the_two(toy):
    model = wrap(toy, build(toy)).eval()
    with model.mixer.matching():
        toy.look(model, toy.batch())
    f = mixer_features(model)
    cos = nn.functional.cosine_similarity
    expected = (cos(f.erased[:1], f.erased) + cos(f.related[:1], f.related)) / 2
    torch.testing.assert_close(cos(f.fused[:1], f.fused), expected, atol=1e-5, rtol=0)


def test_related_rows_come_from_their_modalitys_head(toy):
    model = wrap(toy, build(toy)).eval()
    batch = toy.batch()
    with model.mixer.matching():
        toy.look(model, batch)
        before = mixer_features(model).related
        with torch.no_grad():
            for p in model.mixer.heads["infrared"].parameters():
                p.zero_()
        toy.look(model, batch)
        after = mixer_features(model).related
    assert torch.equal(before[batch.modality == 0], after[batch.modality == 0])
    assert not torch.allclose(before[batch.modality == 1], after[batch.modality == 1])


def test_erased_tap_is_what_evaluation_returns(toy):
    model = wrap(toy, build(toy)).eval()
    with model.mixer.matching():
        out = toy.look(model, toy.batch())
    if toy.erased is not None:
        assert torch.equal(toy.erased(mixer_features(model).erased), out)
    record = model.mixer.record
    assert not torch.equal(record.erased_before, record.erased_after) or "dropout" in toy.name


def test_embed_is_the_codebases_own_evaluation_on_a_bare_model_too(toy):
    batch = toy.batch()
    plain, model = build(toy).eval(), wrap(toy, build(toy)).eval()
    if not toy.name.startswith("generic"):
        embed = toy.resolved.embed
        expected = embed(plain, batch.images, batch.modality)
        assert torch.equal(embed(model, batch.images, batch.modality), expected)
        order = torch.randperm(len(batch.labels))
        torch.testing.assert_close(
            embed(plain, batch.images[order], batch.modality[order]), expected[order]
        )
        if toy.erased is not None and not toy.mirrored:
            torch.testing.assert_close(toy.look(plain, batch), expected)


# 6 — unwrap


def traces(model):
    return {
        "class": type(model),
        "keys": list(model.state_dict()),
        "dict": {n: sorted(m.__dict__) for n, m in model.named_modules()},
        "hooks": {
            n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()
        },
    }


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
    stage = model.get_submodule(toy.resolved.stage_path(model))
    stage.register_forward_hook(lambda *_: calls.append(1))
    wrap(toy, model).train()
    toy.step_loss(model, toy.batch())
    assert len(calls) == toy.stage_calls
    assert sum(h in TAP_HOOKS for h in stage._forward_pre_hooks.values()) == 1


# 7 — copies, compilation, precision (DDP: test_ddp.py)


def test_deepcopy_and_pickle_run_on_their_own_weights(toy, mode):
    model = wrap(toy, build(toy), mode).train()
    toy.step_loss(model, toy.batch())  # a record with a graph must not get in the way
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    twins = (copy.deepcopy(model), torch.load(buffer, weights_only=False))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    for twin in twins:
        assert type(twin) is type(model)
        assert_equal(before, twin.state_dict())
        toy.step_loss(twin, toy.batch()).backward()
        assert all(p.grad is None for p in model.parameters())
        assert any(p.grad is not None and p.grad.any() for p in mixer_parameters(twin))


def test_averaged_model_of_a_wrapped_model(toy):
    model = wrap(toy, build(toy))
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    batch = toy.batch()
    average.eval(), model.eval()
    torch.testing.assert_close(toy.evaluate(average.module, batch), toy.evaluate(model, batch))


def test_replicas_use_their_own_weights(toy):
    model = wrap(toy, build(toy)).eval()
    replica = model._replicate_for_data_parallel()
    assert replica.mixer is model.mixer  # replicate() replaces children next, as it does for any
    assert type(replica) is type(model)


def test_compiled_equals_eager(toy, mode):
    batches = [toy.batch(s) for s in range(3)]
    eager, compiled = (wrap(toy, build(toy), mode, seed=0).train() for _ in range(2))
    torch._dynamo.reset()
    fast = torch.compile(compiled, backend="eager")
    for batch in batches:
        torch.manual_seed(1)
        a = toy.step_loss(eager, batch)
        torch.manual_seed(1)
        loss = toy.step(fast, batch).loss
        b = loss + mixer_loss(fast, batch.labels) if toy.in_loop else loss
        torch.testing.assert_close(a, b)
        a.backward(), b.backward()
    for (name, p), q in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(toy, mode, dtype):
    model = wrap(toy, build(toy), mode).train()
    with torch.autocast("cpu", dtype=dtype):
        loss = toy.step_loss(model, toy.batch())
    assert all(v.dtype == torch.float32 for v in model.mixer.terms.values())
    assert torch.isfinite(loss)
    loss.backward()
    for p in mixer_parameters(model):
        assert p.grad is not None
        assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_has_float32_losses(toy, mode, dtype):
    model = wrap(toy, build(toy).to(dtype), mode).train()
    batch = toy.batch()
    batch = dataclasses.replace(batch, images=batch.images.to(dtype))
    loss = toy.step_loss(model, batch)
    assert {v.dtype for v in model.mixer.terms.values()} == {torch.float32}
    loss.backward()
    assert all(p.dtype == dtype and torch.isfinite(p.grad).all() for p in mixer_parameters(model))


def test_containers_are_refused_with_the_order(toy):
    model = build(toy)
    for inside in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        with pytest.raises(
            MixERError, match=r"optimizer → DistributedDataParallel → torch\.compile"
        ):
            wrap(toy, inside)
    assert not hasattr(model, "mixer")


# 8 — edges and errors


@pytest.mark.parametrize("modalities", [(0,), (1,)])
def test_a_batch_of_one_modality_trains_with_a_gradient_for_every_head(toy, mode, modalities):
    model = wrap(toy, build(toy), mode).train()
    batch = toy.batch(k=4, modalities=modalities)
    if toy.alone is None:
        pytest.skip("the base itself cannot train on one modality")
    loss = toy.alone(model, batch, toy.loop())
    if toy.in_loop:
        loss = loss + mixer_loss(model, batch.labels)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in mixer_parameters(model))


def test_a_single_row_of_a_modality_leaves_its_statistics_alone(toy):
    if not toy.name.startswith("generic"):
        pytest.skip("such a batch does not come up in the six codebases' loops")
    model = wrap(toy, build(toy)).train()
    batch = toy.batch(p=3, k=2)
    batch.modality[:] = 0
    batch.modality[0] = 1
    lone = {k: v.clone() for k, v in model.mixer.heads["infrared"].state_dict().items()}
    loss = toy.step_loss(model, batch)
    assert torch.isfinite(loss)
    loss.backward()
    for key, value in model.mixer.heads["infrared"].state_dict().items():
        assert torch.equal(value, lone[key])
    assert all(m.training for m in model.mixer.heads["infrared"].modules())


@pytest.mark.parametrize("bad", [-1, CLASSES])
def test_labels_out_of_range(toy, bad):
    model = wrap(toy, build(toy)).eval()
    batch = toy.batch()
    with model.mixer.matching():
        toy.look(model, batch)
    labels = batch.labels.clone()
    labels[0] = bad
    with pytest.raises(MixERError, match=rf"{bad}.*expected \[0, {CLASSES - 1}\]"):
        model.mixer.loss(labels)
    with pytest.raises(MixERError, match="expected integers"):
        model.mixer.loss(labels.float())
    model.mixer.loss(batch.labels)  # the mistakes cost nothing


def test_calls_at_the_wrong_time(toy):
    model = wrap(toy, build(toy)).train()
    batch = toy.batch()
    if not toy.in_loop:
        with pytest.raises(MixERError, match="inside the forward"):
            mixer_loss(model, batch.labels)
        with pytest.raises(MixERError, match="No forward"):
            mixer_features(model)
        return
    with pytest.raises(MixERError, match="No forward"):
        mixer_loss(model, batch.labels)
    toy.forward(model, batch)
    with pytest.raises(MixERError, match="12 rows"):
        mixer_loss(model, batch.labels[:-1])
    with pytest.raises(MixERError, match="differs"):
        mixer_loss(model, batch.labels, 1 - batch.modality)
    mixer_loss(model, batch.labels)
    with pytest.raises(MixERError, match="once per forward"):
        mixer_loss(model, batch.labels)
    model.eval()
    toy.look(model, batch)
    with pytest.raises(MixERError):
        mixer_loss(model, batch.labels)


def test_failed_wraps_leave_the_model_as_it_was(toy):
    model = build(toy)
    before = traces(model)
    for options, hint in (
        ({"mode": "e2"}, "Did you mean 'e2e'"),
        ({"adapter": "saia"}, "Did you mean 'saai'"),
        ({"adapter": "no-such-adapter-at-all"}, "Options: .*generic"),
        ({"num_classes": 0}, ">= 1"),
        ({"config": {"lambda_fusion": 1}}, "MixERConfig"),
        ({"adapter": 3}, "Adapter instance"),
    ):
        with pytest.raises(MixERError, match=hint):
            wrap_with_mixer(model, **{"adapter": toy.adapter(), **options})
        assert traces(model) == before
    model.mixer = nn.Identity()
    with pytest.raises(MixERError, match="has an attribute `mixer`"):
        wrap(toy, model)


# State dicts and optimizers


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


# Extraction


def test_extract_features_keeps_order_modality_and_modes(toy):
    model = wrap(toy, build(toy)).train()
    first = next(model.children())
    first.eval()  # somebody's frozen part
    modes = [m.training for m in model.modules()]
    batches = [toy.batch(s) for s in range(2)]
    mirrored = [batches, [dataclasses.replace(b, images=b.images.flip(3)) for b in batches]]
    loader = [(b.images, b.labels, b.cams, b.modality, ["x"] * len(b.labels)) for b in batches]
    found = mixer_plugin.extract_features(model, loader)
    assert [m.training for m in model.modules()] == modes
    assert model.mixer.record is None
    assert torch.equal(found.ids, torch.cat([b.labels for b in batches]))
    assert torch.equal(found.modality, torch.cat([b.modality for b in batches]))
    assert found.paths == ("x",) * len(found)
    model.eval()
    for i, batch in enumerate(batches):
        rows = found[slice(12 * i, 12 * i + 12)]
        if toy.name != "generic/dropout":
            torch.testing.assert_close(rows.erased, toy.evaluate(model, batch).detach())
        related = []
        for view in mirrored[: 1 + toy.mirrored]:
            with model.mixer.matching():
                toy.look(model, view[i])
            related.append(mixer_features(model).related.detach())
        torch.testing.assert_close(rows.related, torch.stack(related).mean(0))
    without = mixer_plugin.extract_features(model, [b[:3] for b in loader])
    assert torch.equal(without.modality, found.modality)  # from SYSU's cameras
    named = [{"images": b[0], "ids": b[1], "cams": b[2], "modality": b[3]} for b in loader]
    torch.testing.assert_close(mixer_plugin.extract_features(model, named).related, found.related)


def test_extract_features_errors(toy):
    model = build(toy)
    with pytest.raises(MixERError, match="not wrapped"):
        mixer_plugin.extract_features(model, [])
    wrap(toy, model)
    with pytest.raises(MixERError, match="no batch"):
        mixer_plugin.extract_features(model, [])
    with pytest.raises(MixERError, match="no cams"):
        mixer_plugin.extract_features(model, [(torch.zeros(2, 3, 32, 16), torch.zeros(2))])


EXPORTS = [
    "wrap_with_mixer",
    "unwrap_mixer",
    "mixer_loss",
    "mixer_features",
    "mixer_param_groups",
    "mixer_parameters",
    "base_parameters",
    "check_optimizer",
    "list_adapters",
    "register_adapter",
    "MixERConfig",
    "MixERError",
    "Modality",
    "FeatureSet",
    "extract_features",
    "scores",
    "evaluate",
    "base_state_dict",
    "load_base_state_dict",
    "mixer_state_dict",
    "__version__",
]


def test_exports_are_the_contract():
    assert sorted(mixer_plugin.__all__) == sorted(EXPORTS)
    assert all(hasattr(mixer_plugin, name) for name in EXPORTS)
