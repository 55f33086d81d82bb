"""Evaluation in the middle of a training changes nothing of the training."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mixer_plugin import evaluate, extract_features, load_base_state_dict, mixer_state_dict
from mixer_plugin.attach import restore
from mixer_plugin.errors import MixERTypeError, MixERValueError
from mixer_plugin.training import best_so_far, evaluate_in_training, keep_best, log_to
from tests.contract.attached import assert_equal, build, wrap
from tests.contract.toys import IMAGE, TOYS

NAMES = ["saai", "sgeil", "generic/dropout"]


def gallery(shuffle=False):
    generator = torch.Generator().manual_seed(3)
    count = 24
    ids = torch.arange(count) // 4
    modality = torch.arange(count) % 2
    images = torch.randn(count, 3, *IMAGE, generator=generator)
    data = TensorDataset(images, ids, modality * 2 + 1, modality)
    return DataLoader(data, batch_size=7, shuffle=shuffle)


def trained(name, between, steps=4, precision=None):
    """Trains a toy on the global random numbers; ``between`` is called after each step."""
    toy = TOYS[name]
    model = wrap(toy, build(toy))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    model.train()
    loop = toy.loop()
    loop.start_epoch(model, 0)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = toy.step_loss(model, toy.batch(None), loop)
            between(model)  # inside autocast, before the backward
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.stepped(model)
        between(model)
    drawn = (torch.rand(3).tolist(), random.random(), np.random.rand())
    return model, drawn


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_training_with_evaluations_equals_one_without_bit_for_bit(name, precision):
    plain, drawn = trained(name, lambda model: None, precision=precision)
    found = []

    def between(model):
        modes = [module.training for module in model.modules()]
        record, terms = model.mixer.record, model.mixer.terms
        found.append(evaluate_in_training(model, gallery(shuffle=True)))
        assert [module.training for module in model.modules()] == modes
        assert model.mixer.record is record
        assert model.mixer.terms is terms
        assert torch.is_grad_enabled()

    watched, same = trained(name, between, precision=precision)
    assert_equal(dict(plain.state_dict()), dict(watched.state_dict()))
    assert drawn == same
    assert len({tuple(each.values()) for each in found}) > 1  # the figures followed the training


def test_figures_are_those_of_an_evaluation_after_the_training():
    model, _ = trained("saai", lambda model: None)
    rules = ("mixer", "erased")
    with torch.autocast("cpu", torch.bfloat16):
        figures = evaluate_in_training(model, gallery(), rules=rules, settings=("mix", "cross"))
    results = evaluate(
        extract_features(model, gallery()), "full", rules=rules, settings=("mix", "cross")
    )
    assert figures["mix/mAP"] == results.get("mix", "mixer").mAP
    assert figures["mix/mAP/erased"] == results.get("mix", "erased").mAP
    assert figures["cross/R1"] == results.get("cross", "mixer").r1
    assert len(figures) == 2 * 2 * 5


def test_two_sides_are_refused():
    model, _ = trained("saai", lambda model: None, steps=1)
    with pytest.raises(MixERValueError, match="two figures for each name"):
        evaluate_in_training(model, gallery(), query="both")


def test_the_best_checkpoint_has_base_and_heads(tmp_path):
    toy, path = TOYS["saai"], tmp_path / "best.pth"
    model, _ = trained("saai", lambda model: None, steps=1)
    assert best_so_far(path) is None
    best = keep_best(model, {"mix/mAP": 0.4, "mix/R1": 0.9}, path, epoch=1)
    assert best == best_so_far(path) == 0.4
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.classifier.weight.mul_(2)
    for worse in (0.4, 0.3, float("nan")):
        assert keep_best(model, {"mix/mAP": worse}, path, best=best) == 0.4
    restored = restore(lambda: build(toy), path, "e2e")
    assert_equal(state, dict(restored.state_dict()))
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert keep_best(model, {"mix/mAP": 0.5}, path, best=best) == best_so_far(path) == 0.5
    assert keep_best(model, {"mix/mAP": 0.1}, path) == best_so_far(path) == 0.1  # another run
    with pytest.raises(MixERValueError, match="Did you mean 'mix/mAP'"):
        keep_best(model, {"mix/mAP": 0.5}, path, monitor="mix/map")
    assert mixer_state_dict(restored)
    load_base_state_dict(build(toy), path)


def test_a_failed_write_keeps_the_older_checkpoint(tmp_path, monkeypatch):
    model, _ = trained("saai", lambda model: None, steps=1)
    path = tmp_path / "best.pth"
    keep_best(model, {"mix/mAP": 0.4}, path)
    monkeypatch.setattr(torch, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keep_best(model, {"mix/mAP": 0.5}, path, best=0.4)
    assert [each.name for each in tmp_path.iterdir()] == ["best.pth"]
    assert best_so_far(path) == 0.4
    path.write_bytes(b"PK")
    with pytest.raises(MixERValueError, match="cannot be read as a checkpoint"):
        best_so_far(path)


def test_tensorboard_holds_the_figures(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        log_to(writer)({"mix/mAP": 0.25}, 3)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("mix/mAP")
    assert [(event.step, event.value) for event in events] == [(3, 0.25)]


def test_other_loggers(tmp_path):
    said = []
    log_to(lambda figures, step: said.append((figures, step)))({"mix/mAP": 0.25}, 3)
    assert said == [({"mix/mAP": 0.25}, 3)]
    with pytest.raises(MixERTypeError, match="int is no logger"):
        log_to(3)


def test_wandb_takes_figures_and_step(tmp_path):
    wandb = pytest.importorskip("wandb")
    with wandb.init(mode="offline", dir=tmp_path, project="test") as run:
        log_to(run)({"mix/mAP": 0.25}, 3)
        assert run.step == 3
        log_to(run)({"mix/mAP": 0.5}, 4)  # the step before is complete now
        assert run.step == 4


def test_mlflow_holds_the_figures(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"file://{tmp_path}")
    mlflow.set_experiment("test")
    with mlflow.start_run() as run:
        log_to(mlflow)({"mix/mAP": 0.25}, 3)
    (held,) = mlflow.MlflowClient().get_metric_history(run.info.run_id, "mix/mAP")
    assert (held.step, held.value) == (3, 0.25)


def test_nothing_is_warned_of_in_a_plain_training():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained("generic/dropout", lambda model: evaluate_in_training(model, gallery()), steps=2)
