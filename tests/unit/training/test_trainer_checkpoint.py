"""Checkpoints: refused where they do not fit, and everything random comes back."""

import dataclasses
import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from mixer_plugin.baselines.loops import Loop, Step
from mixer_plugin.benchmarks.training.checkpoint import VERSION
from mixer_plugin.benchmarks.training.fit import fit
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.random_state import random_state, set_random_state
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.data.loading.transforms import Augmentation
from mixer_plugin.errors import MixERError
from mixer_plugin.run_card import differences
from tests.miniature import training_set

RECIPE = Recipe(p=2, k=2, iterations=6, warmup=0, augmentation=Augmentation(flip=0.0, pad=1))


class Ends(Exception):
    pass


class RandomLoss(Loop):
    """Draws from Python's and NumPy's states too, which no step seeds."""

    def forward(self, net, batch):
        loss = nn.functional.cross_entropy(net(batch.images), batch.labels)
        return Step(None, loss * (1 + random.random() + np.random.rand()))


def train(path, stop=None, **changes):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(96, 4))
    options = TrainingOptions(checkpoint_every=2, log_every=1, **changes.pop("options", {}))

    def end(step, loss):
        if step == stop:
            raise Ends

    settings = {"seed": 0, "run": {"cell": "f", "mixer": {"reversal": 0.1}}, **changes}
    fit(
        net,
        list(net.parameters()),
        RandomLoss(),
        training_set(8, 4, images=4),
        settings.pop("recipe", RECIPE),
        options=options,
        checkpoint=path,
        log=(path.parent, "run"),
        on_step=end,
        **settings,
    )
    return net.state_dict()


@pytest.fixture
def interrupted(tmp_path):
    path = tmp_path / "resume.pt"
    with pytest.raises(Ends):
        train(path, stop=4)
    return path


def test_python_and_numpy_random_numbers_resume(tmp_path):
    random.seed(5), np.random.seed(5)
    expected = train(tmp_path / "whole.pt")
    random.seed(5), np.random.seed(5)
    with pytest.raises(Ends):
        train(tmp_path / "resume.pt", stop=4)
    random.seed(6), np.random.seed(6)
    resumed = train(tmp_path / "resume.pt")
    assert all(torch.equal(expected[k], resumed[k]) for k in expected)


def test_random_state_round_trip():
    random.gauss(0, 1), np.random.standard_normal()  # both keep half a pair
    state = random_state()

    def draw():
        return random.gauss(0, 1), np.random.standard_normal(), float(torch.rand(()))

    first = draw()
    set_random_state(state)
    assert draw() == first


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed: 0 → 1"),
        ({"recipe": dataclasses.replace(RECIPE, lr=0.5)}, "recipe.lr: 0.003 → 0.5"),
        ({"options": {"precision": "bf16"}}, "options.precision: None → 'bf16'"),
        ({"run": {"cell": "e2e"}}, "run.cell: 'f' → 'e2e'.*run.mixer"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(interrupted, changes, words):
    before = interrupted.read_bytes()
    with pytest.raises(MixERError, match=words):
        train(interrupted, **changes)
    assert interrupted.read_bytes() == before


def test_what_changes_no_number_may_change(interrupted):
    train(interrupted, options={"log": "none"})


def test_a_checkpoint_loads_without_running_code_and_says_its_version(interrupted):
    state = torch.load(interrupted, weights_only=True)
    assert state["version"] == VERSION
    assert state["step"] == 4
    state["version"] = 0
    torch.save(state, interrupted)
    with pytest.raises(MixERError, match="not a checkpoint of version"):
        train(interrupted)


def test_a_damaged_checkpoint_is_named(interrupted):
    interrupted.write_bytes(interrupted.read_bytes()[:500])
    with pytest.raises(MixERError, match=r"resume\.pt cannot be read as a checkpoint"):
        train(interrupted)


def test_a_resumed_log_repeats_nothing(interrupted):
    log = interrupted.parent / "run.log.jsonl"
    with log.open("a") as file:
        file.write('{"step": 5, "lo')  # ended in the middle of a line
    train(interrupted)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "lr/all"} <= set(records[0])
    assert records[0]["lr/all"] == RECIPE.rate(0)


def test_differences():
    assert differences({"a": 1, "b": {"c": (1, 2)}}, {"a": 1, "b": {"c": [1, 2]}}) == []
    assert differences({"a": {"b": 1}}, {"a": {"b": 2}, "c": 3}) == [
        "a.b: 1 → 2",
        "c: 'absent' → 3",
    ]
