"""Copies, compilation and precision (DDP: test_ddp.py)."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch
from torch import nn

from mixer_plugin import MixERError, mixer_loss, mixer_parameters
from tests.contract.attached import assert_equal, build, wrap


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
