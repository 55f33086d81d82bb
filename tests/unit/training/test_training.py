"""The benchmark's training loop: exact to repeat and to resume."""

import dataclasses

import pytest
import torch
from torch import nn

from mixer_plugin import wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Loop, Step
from mixer_plugin.benchmarks.training.checkpoint import remove_checkpoint
from mixer_plugin.benchmarks.training.fit import Recipe, fit
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.steps import WithMixER
from mixer_plugin.data.loading.transforms import Augmentation
from mixer_plugin.errors import MixERError
from mixer_plugin.io.options import build
from tests.miniature import training_set


@pytest.fixture
def data():
    return training_set(16, 8)


RECIPE = Recipe(p=2, k=2, iterations=9, lr=0.01, warmup=2, augmentation=Augmentation(erase=0.5))

EVERY_THIRD = TrainingOptions(checkpoint_every=3)


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
        train(data, checkpoint=path, options=EVERY_THIRD, on_step=interrupt)
    assert path.exists() == (stop >= 3)
    seen = []
    resumed = train(data, checkpoint=path, options=EVERY_THIRD, on_step=lambda s, _: seen.append(s))
    assert seen[0] == 3 * ((stop) // 3)
    assert all(torch.equal(expected[k], resumed[k]) for k in expected)
    # A finished training is kept until its caller has its results, and is not repeated.
    assert list(tmp_path.iterdir()) == [path]
    again = train(data, checkpoint=path, on_step=lambda s, _: pytest.fail("trained again"))
    assert all(torch.equal(expected[k], again[k]) for k in expected)
    (tmp_path / ".resume.pt.k2j").touch()  # what an ended process left
    remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


def test_rate_warms_up_and_falls_to_zero():
    recipe = Recipe(iterations=100, warmup=10, lr=1.0)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


def test_rate_falls_at_milestones():
    recipe = Recipe(iterations=9, warmup=2, lr=1.0, schedule="step", milestones=(4, 6), gamma=0.5)
    assert [recipe.rate(step) for step in range(9)] == [0.5, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_optimizer_is_the_recipes(data, name):
    """One step of a linear map's weights against the rule written out."""
    recipe = dataclasses.replace(RECIPE, optimizer=name, iterations=1, warmup=0, weight_decay=0.1)
    model = network()
    before = model[3].weight.detach().clone()
    grads = []

    class Keep(Loop):
        def forward(self, net, batch):
            net[3].weight.register_hook(grads.append)
            return Step(None, nn.functional.cross_entropy(net(batch.images), batch.labels))

    fit(model, list(model.parameters()), Keep(), data, recipe, seed=0)
    decayed = grads[0] + 0.1 * before
    # Nesterov's first step is (1 + momentum) times the gradient, Adam's the gradient's sign.
    expected = 1.9 * decayed if name == "sgd" else decayed / (decayed.abs() + 1e-8)
    assert torch.allclose(model[3].weight, before - recipe.lr * expected, atol=1e-7)


def test_gradients_are_clipped(data):
    norms = []

    class Keep(Plain):
        def stepped(self, net):
            norms.append(torch.stack([p.grad.norm() for p in net.parameters()]).norm())

    model = network()
    recipe = dataclasses.replace(RECIPE, clip=0.01)
    fit(model, list(model.parameters()), Keep(), data, recipe, seed=0)
    assert torch.stack(norms).tolist() == pytest.approx([0.01] * 9, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"schedule": "step"}, "needs milestones"),
        ({"milestones": [3]}, "'cosine' takes none"),
        ({"schedule": "step", "milestones": [3, 2]}, "ascending"),
        ({"optimizer": "sdg"}, "Did you mean 'sgd'"),
        ({"clip": 0}, "norm > 0"),
        ({"iteration": 5}, "Did you mean 'iterations'"),
        ({"lr": 0.0}, "lr is 0.0; expected a number > 0"),
        ({"p": 0}, ">= 1"),
        ({"augmentation": {"eraze": 0.5}}, "Did you mean 'erase'"),
    ],
)
def test_recipe_errors(values, hint):
    with pytest.raises(MixERError, match=hint):
        build(Recipe, values, "recipe")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddag", "idkl", "sgeil", "deen"])
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
            options=TrainingOptions(checkpoint_every=2),
            on_step=interrupt,
        )
        return net.state_dict()

    expected = run()
    remove_checkpoint(tmp_path / "resume.pt")
    with pytest.raises(KeyboardInterrupt):
        run(stop=6)  # saved after the sixth step, the last of an epoch
    resumed = run()
    assert all(torch.equal(value, resumed[key]) for key, value in expected.items())
