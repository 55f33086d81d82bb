"""Odd batches, wrong labels and calls at the wrong time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixer_plugin import MixERError, mixer_features, mixer_loss, mixer_parameters, wrap_with_mixer
from tests.contract.attached import build, traces, wrap
from tests.contract.toys import CLASSES


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
