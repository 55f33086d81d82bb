"""The benchmark's training loop: exact to repeat and to resume."""

import dataclasses

import pytest
import torch
from torch import nn

from mixer_plugin import wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Loop, Step
from mixer_plugin.benchmarks.steps import WithMixER
from mixer_plugin.benchmarks.training import Recipe, TrainingSet, fit
from mixer_plugin.data.transforms import Augmentation
from mixer_plugin.errors import MixERError


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(6)
    modality = torch.tensor([0, 1]).repeat(12)
    images = torch.randint(0, 256, (24, 3, 16, 8), generator=g, dtype=torch.uint8)
    return TrainingSet(images, labels, modality, 1 + 2 * modality)


RECIPE = Recipe(p=2, k=2, iterations=9, lr=0.01, warmup=2, augmentation=Augmentation(erase=0.5))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(336, 4))


class Plain(Loop):
    """Cross-entropy, plus random numbers and a count that have to survive an interruption."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.epochs, self.stops = [], 0

    def start_epoch(self, net, epoch):
        super().start_epoch(net, epoch)
        self.epochs.append(epoch)

    def forward(self, net, batch):
        self.seen += 1
        loss = nn.functional.cross_entropy(net(batch.images), batch.labels)
        return Step(None, loss * (1 + 0.1 * torch.rand(())) + 0.01 * self.seen * net[0].bias.sum())

    def stepped(self, net):
        self.stops += 1


def train(data, seed=1, **options):
    model = network()
    fit(model, list(model.parameters()), Plain(), data, RECIPE, seed=seed, **options)
    return model.state_dict()


def test_epochs_and_ends_of_steps_are_told_to_the_loop(data):
    loop, model = Plain(), network()
    fit(model, list(model.parameters()), loop, data, RECIPE, seed=0)
    # 24 images, 8 a step: 3 steps an epoch; told once before the first step for what it makes.
    assert loop.epochs == [0, 0, 1, 2]
    assert loop.stops == 9


def test_shapes_reach_the_loop_augmented_apart(data):
    shapes = dataclasses.replace(data, shapes=255 - data.images)
    seen = []

    class Keep(Plain):
        def forward(self, net, batch):
            seen.append(batch)
            return super().forward(net, batch)

    model = network()
    fit(model, list(model.parameters()), Keep(), shapes, RECIPE, seed=0)
    assert all(b.shapes.shape == b.images.shape for b in seen)
    # Without augmentation a shape here would be an image's negative; crops and erasing differ.
    total = seen[0].images + seen[0].shapes
    assert total.std() > 0.1


def test_same_seed_same_bits_whatever_the_global_state(data):
    first = train(data)
    torch.manual_seed(99)
    second, other = train(data), train(data, seed=2)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("stop", [1, 4, 6, 8])
def test_interrupted_and_resumed_ends_in_the_same_bits(data, tmp_path, stop):
    expected = train(data)

    def interrupt(step, _):
        if step == stop:
            raise KeyboardInterrupt

    path = tmp_path / "resume.pt"
    with pytest.raises(KeyboardInterrupt):
        train(data, checkpoint=path, checkpoint_every=3, on_step=interrupt)
    assert path.exists() == (stop >= 3)
    seen = []
    resumed = train(data, checkpoint=path, checkpoint_every=3, on_step=lambda s, _: seen.append(s))
    assert seen[0] == 3 * ((stop) // 3)
    assert all(torch.equal(expected[k], resumed[k]) for k in expected)
    assert list(tmp_path.iterdir()) == []


def test_rate_warms_up_and_falls_to_zero():
    recipe = Recipe(iterations=100, warmup=10, lr=1.0)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"iteration": 5}, "Did you mean 'iterations'"),
        ({"lr": 0.0}, "lr > 0"),
        ({"p": 0}, ">= 1"),
        ({"augmentation": {"eraze": 0.5}}, "Did you mean 'erase'"),
    ],
)
def test_recipe_errors(values, hint):
    with pytest.raises(MixERError, match=hint):
        Recipe.from_dict(values)


@pytest.mark.parametrize("name", ["ddag", "sgeil", "deen", "idkl"])
def test_a_codebases_own_state_survives_an_interruption(data, tmp_path, name):
    """Graph weight, averaged twin, dropout, mixing: the same bits as in one go."""
    images = torch.nn.functional.interpolate(data.images.float(), (32, 16)).byte()
    data = dataclasses.replace(data, images=images, shapes=255 - images)

    def run(stop=None):
        torch.manual_seed(0)
        net = create_baseline(name, 4, trunk="small")
        wrap_with_mixer(net, seed=0)

        def interrupt(step, _):
            if step == stop:
                raise KeyboardInterrupt

        fit(
            net,
            [p for p in net.parameters() if p.requires_grad],
            WithMixER(create_loop(name)),
            data,
            RECIPE,
            seed=0,
            checkpoint=tmp_path / "resume.pt",
            checkpoint_every=2,
            on_step=interrupt,
        )
        return net.state_dict()

    expected = run()
    with pytest.raises(KeyboardInterrupt):
        run(stop=6)  # saved after the sixth step, the last of an epoch
    resumed = run()
    assert all(torch.equal(value, resumed[key]) for key, value in expected.items())
