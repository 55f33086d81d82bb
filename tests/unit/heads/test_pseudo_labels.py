"""Rows that no cluster has, and numbers of clusters that change between epochs."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixer_plugin import MixERConfig, mixer_loss, mixer_parameters
from mixer_plugin.errors import MixERValueError
from tests.contract.attached import build, wrap
from tests.contract.toys import CLASSES, TOYS

PAGE = Path(__file__).resolve().parents[3] / "docs/pseudo-labels.md"
ROWS = ("erased_before", "erased_after", "related_before", "related_after", "modality")
KINDS = [
    {},
    {"related_labels": "identity", "related_heads": "shared"},
    {"orthogonal": "cka", "fusion_center": True, "center_cluster_scope": "joint"},
]


def forward(**options):
    toy = TOYS["generic"]
    config = MixERConfig(erased_identity="add", **options)
    model, batch = wrap(toy, build(toy), config=config, seed=0).train(), toy.batch()
    model.mixer.set_num_classes(CLASSES)
    model(batch.images, batch.modality)
    return model, batch


@pytest.mark.parametrize("options", KINDS)
def test_an_outlier_counts_in_no_term(options):
    model, batch = forward(**options)
    record, labels = model.mixer.record, batch.labels.clone()
    labels[[0, 3, 7]] = -1
    kept = labels >= 0
    without = dataclasses.replace(record, **{name: getattr(record, name)[kept] for name in ROWS})
    _, expected = model.mixer.loss_on(without, labels[kept], count=False)
    _, found = model.mixer.loss_on(record, labels, count=False)
    assert set(found) == set(expected)
    for name, term in found.items():
        assert torch.equal(term, expected[name]), name
    _, whole = model.mixer.loss_on(record, batch.labels, count=False)
    assert not torch.equal(whole["total"], found["total"])


def test_a_batch_of_outliers_costs_nothing_and_still_has_a_gradient():
    model, batch = forward()
    loss = mixer_loss(model, torch.full_like(batch.labels, -1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert any(p.grad is not None for p in mixer_parameters(model))


@pytest.mark.parametrize("wrong", [-2, CLASSES])
def test_other_labels_are_refused(wrong):
    model, batch = forward()
    labels = batch.labels.clone()
    labels[0] = wrong
    with pytest.raises(MixERValueError, match=rf"expected \[0, {CLASSES - 1}\], or -1 for"):
        mixer_loss(model, labels)


def test_a_supervised_loop_has_no_outliers_until_it_says_so():
    model, batch = forward()
    model.mixer.pseudo_labels = False
    labels = batch.labels.clone()
    labels[0] = -1
    with pytest.raises(MixERValueError, match=r"set_num_classes\(n\)"):
        mixer_loss(model, labels)
    model.mixer.set_num_classes(CLASSES)  # as the error advises
    mixer_loss(model, labels).backward()


@pytest.mark.parametrize("labels", ["modality-identity", "identity"])
def test_the_number_of_clusters_changes_in_the_middle_of_training(labels):
    toy = TOYS["generic"]
    config = MixERConfig(erased_identity="add", related_labels=labels)
    model, batch = wrap(toy, build(toy), config=config).train(), toy.batch()
    mixer, optimizer = model.mixer, torch.optim.Adam(model.parameters(), lr=1e-3)
    parameters = [id(p) for p in model.parameters()]
    for count in (CLASSES, 40, 2):
        mixer.set_num_classes(count, optimizer)
        assert mixer.num_classes == count
        assert len(mixer.identity.weight) == (2 if labels == "modality-identity" else 1) * count
        assert len(mixer.erased_identity.weight) == count
        for _ in range(2):
            model(batch.images, batch.modality)
            before = mixer.identity.weight.detach().clone()
            optimizer.zero_grad()
            mixer_loss(model, batch.labels % count).backward()
            optimizer.step()
            assert not torch.equal(before, mixer.identity.weight)
    assert [id(p) for p in model.parameters()] == parameters


def test_new_classifiers_draw_from_no_random_state_and_are_the_same_again():
    made = []
    for _ in range(2):
        model, _ = forward()
        state = torch.get_rng_state()
        model.mixer.set_num_classes(9)
        assert torch.equal(torch.get_rng_state(), state)
        made.append(model.mixer.identity.weight.detach().clone())
    assert torch.equal(*made)


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, None])
def test_a_number_of_classes_that_is_none_is_refused(wrong):
    model, _ = forward()
    before = model.mixer.identity.weight.detach().clone()
    with pytest.raises(MixERValueError, match="expected a whole number >= 1"):
        model.mixer.set_num_classes(wrong)
    assert torch.equal(model.mixer.identity.weight, before)
    assert model.mixer.num_classes == CLASSES


@pytest.mark.slow
def test_the_pages_loop_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "loop.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "loop.py")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"epoch 2: \d+ clusters, \d+ outliers, loss \d", done.stdout)
