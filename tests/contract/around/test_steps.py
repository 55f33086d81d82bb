"""Training steps of other shapes: clipped, of one modality, compiled with their loss."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F

from mixer_plugin import base_parameters, mixer_loss, mixer_parameters, wrap_with_mixer
from mixer_plugin.adapters import GenericAdapter
from mixer_plugin.errors import MixERWarning
from tests.contract.toys import TOYS, PlainNet, make_batch


def wrapped(mode):
    torch.manual_seed(0)
    given = GenericAdapter("layer4", "avgpool", classifier="fc", modality="modality")
    return wrap_with_mixer(PlainNet(), mode, adapter=given, seed=1).train()


def loss_of(model, batch):
    _, logits = model(batch.images, batch.modality)
    return F.cross_entropy(logits, batch.labels) + mixer_loss(model, batch.labels)


def told_while_training(mode, clip):
    """What eight steps warn of."""
    model = wrapped(mode)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for seed in range(8):
            loss = loss_of(model, make_batch(seed))
            optimizer.zero_grad()
            loss.backward()
            clip(model)
            optimizer.step()
    return [str(each.message) for each in seen if issubclass(each.category, MixERWarning)]


def clip_all(model):
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)


def clip_apart(model):
    torch.nn.utils.clip_grad_norm_(base_parameters(model), 0.5)
    torch.nn.utils.clip_grad_norm_(mixer_parameters(model), 0.5)


def test_one_norm_over_base_and_heads_is_told_in_mode_f():
    (said,) = told_while_training("f", clip_all)
    assert "Clip base_parameters(model) and mixer_parameters(model) apart" in said


@pytest.mark.parametrize(
    ("mode", "clip"), [("f", clip_apart), ("f", lambda model: None), ("e2e", clip_all)]
)
def test_gradients_clipped_apart_or_not_at_all_are_not_told(mode, clip):
    assert told_while_training(mode, clip) == []


@pytest.mark.parametrize("modality", [0, 1])
def test_a_batch_of_one_modality_is_told_once(modality):
    model, batch = wrapped("e2e"), make_batch(modalities=(modality,))
    with pytest.warns(MixERWarning, match="rows of one modality"):
        loss_of(model, batch).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error", MixERWarning)
        loss_of(model, batch).backward()
        loss_of(wrapped("e2e"), make_batch()).backward()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "backend"),
    [
        ("saai-base", "e2e", "aot_eager"),
        ("generic", "f", "aot_eager"),
        ("generic", "e2e", "inductor"),
    ],
)
def test_a_compiled_step_with_its_loss_equals_the_plain_one(name, mode, backend):
    toy = TOYS[name]

    def fresh():
        torch.manual_seed(0)
        return wrap_with_mixer(toy.build(), mode, adapter=toy.adapter(), seed=1).train()

    plain, model, batch = fresh(), fresh(), toy.batch()
    torch.compiler.reset()
    compiled = torch.compile(lambda: toy.step_loss(model, batch), backend=backend)
    expected, found = toy.step_loss(plain, batch), compiled()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    expected.backward(), found.backward()
    for (named, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), named
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-4, msg=named)


def test_looking_at_gradients_breaks_no_loop():
    """Sparse gradients have no norm over several tensors, and complex weights no bits of one."""

    class Embedded(PlainNet):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(4, 12, sparse=True)
            self.wave = torch.nn.Parameter(torch.ones(3, dtype=torch.complex128))

        def forward(self, images, modality=None):
            feature, logits = super().forward(images, modality)
            return feature, logits + self.table(modality).sum() + self.wave.abs().sum().float()

    torch.manual_seed(0)
    given = GenericAdapter("layer4", "avgpool", classifier="fc", modality="modality")
    model = wrap_with_mixer(Embedded(), "f", adapter=given).train()
    for seed in range(4):
        loss_of(model, make_batch(seed)).backward()
    assert model.table.weight.grad.is_sparse
