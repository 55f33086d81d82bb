"""Options of the trainer: each acts, and says so where it cannot."""

import dataclasses
import math
import sys

import pytest
import torch
from torch import nn

from mixer_plugin import MixERConfig, base_state_dict, wrap_with_mixer
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.loops import Batch, Loop, Step
from mixer_plugin.benchmarks.training.checkpoint import steps_in
from mixer_plugin.benchmarks.training.fit import fit
from mixer_plugin.benchmarks.training.options import TrainingOptions
from mixer_plugin.benchmarks.training.recipe import Recipe
from mixer_plugin.benchmarks.training.steps import WithMixER, cut
from mixer_plugin.benchmarks.training.watches import ConfusionWatch
from mixer_plugin.data.loading.transforms import Augmentation
from mixer_plugin.errors import MissingExtraError, MixERError
from mixer_plugin.io.options import build
from tests.miniature import training_set

RECIPE = Recipe(
    p=4, k=2, iterations=6, lr=0.01, warmup=2, augmentation=Augmentation(flip=0.0, pad=1)
)


@pytest.fixture
def data():
    return training_set(32, 16)


class Rows(Loop):
    """Cross-entropy of rows that do not see each other; keeps what it was given."""

    def __init__(self, rows="grouped"):
        super().__init__()
        self.order, self.seen, self.maps = rows, [], []

    @property
    def rows(self):
        return self.order

    def forward(self, net, batch):
        self.seen.append(batch)
        logits = net(batch.images)
        self.maps.append(logits.dtype)
        return Step(None, nn.functional.cross_entropy(logits.float(), batch.labels))


def independent():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1680, 4))


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(1680, 4))


def train(data, make=independent, loop=None, on_step=None, folder=None, **options):
    model = make()
    told = {"on_step": on_step, "log": None if folder is None else (folder, "run")}
    options = TrainingOptions(**options)
    loop = Rows() if loop is None else loop
    fit(model, list(model.parameters()), loop, data, RECIPE, seed=0, options=options, **told)
    return model


def close(a, b, tolerance=1e-6):
    return all(
        torch.allclose(x, y, atol=tolerance)
        for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )


def test_half_precision_runs_the_network_in_it(data):
    exact = train(data)
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        loop = Rows()
        model = train(data, loop=loop, precision=name)
        assert set(loop.maps) == {dtype}
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert close(model, exact, 0.05)
        assert not close(model, exact, 0)


def test_channels_last_is_a_choice(data):
    for wanted in (True, False):
        loop = Rows()
        model = train(data, loop=loop, channels_last=wanted)
        for tensor in (loop.seen[0].images, model[0].weight):
            assert tensor.is_contiguous(memory_format=torch.channels_last) == wanted


@pytest.mark.parametrize("rows", ["grouped", "blocks"])
def test_accumulated_step_is_the_big_one_where_rows_are_independent(data, rows):
    whole = train(data, loop=Rows(rows))
    loop = Rows(rows)
    assert close(train(data, loop=loop, accumulate=2), whole)
    assert len(loop.seen) == 2 * RECIPE.iterations
    # Statistics of batch normalisation are a part's own.
    one, two = (train(data, make=normed, loop=Rows(rows), accumulate=n) for n in (1, 2))
    assert not close(one, two, 1e-4)


@pytest.mark.parametrize("rows", ["grouped", "blocks"])
def test_parts_of_a_batch_hold_whole_identities_in_the_same_order(data, rows):
    loop = Rows(rows)
    train(data, loop=loop)
    batch = loop.seen[0]
    shaped = dataclasses.replace(batch, shapes=-batch.images)
    parts = cut(shaped, 2, rows)
    assert cut(batch, 1, rows)[0] is batch
    for part in parts:
        assert len(part.labels.unique()) == 2
        assert torch.equal(part.shapes, -part.images)
        if rows == "blocks":
            assert part.modality.tolist() == [0] * 4 + [1] * 4
            assert torch.equal(part.labels[:4], part.labels[4:])
        else:
            assert part.modality.tolist() == [1, 0] * 4
    together = torch.cat([part.images for part in parts])
    assert sorted(together.sum((1, 2, 3)).tolist()) == sorted(batch.images.sum((1, 2, 3)).tolist())
    assert not set(parts[0].labels.tolist()) & set(parts[1].labels.tolist())


def test_average_of_weights_takes_their_place(data):
    snapshots = [{k: v.clone() for k, v in normed().state_dict().items()}]
    model = normed()

    def keep(step, loss):
        snapshots.append({k: v.clone() for k, v in model.state_dict().items()})

    train(data, make=lambda: model, on_step=keep, ema=0.25)
    average = snapshots[0]
    for t, state in enumerate(snapshots[1:], start=1):
        decay = min(0.25, (1 + t) / (10 + t))
        average = {k: decay * average[k] + (1 - decay) * state[k] for k in state}
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, average[name], atol=1e-6), name
            assert not torch.equal(value, snapshots[-1][name]), name
        else:
            assert torch.equal(value, snapshots[-1][name])


def run_network(data, name, *, wrap=None, mode="f", recipe=RECIPE, **options):
    torch.manual_seed(0)
    net = create_baseline(name, 4, trunk="small")
    loop = create_loop(name)
    if wrap is not None:
        wrap_with_mixer(net, mode, config=wrap, seed=0)
        loop = WithMixER(loop)
    start = {k: v.clone() for k, v in net.state_dict().items()}
    warnings = []
    fit(
        net,
        [p for p in net.parameters() if p.requires_grad],
        loop,
        dataclasses.replace(data, shapes=255 - data.images),
        recipe,
        seed=0,
        options=TrainingOptions(**options),
        on_warning=warnings.append,
    )
    return net, start, warnings


def same(a, b):
    return all(torch.equal(value, b[key]) for key, value in a.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saai-base", "ddag", "sgeil"])
def test_overflow_in_the_heads_alone_leaves_the_base_bit_identical(data, name):
    recipe = dataclasses.replace(RECIPE, iterations=3, clip=1.0)
    alone, _, _ = run_network(data, name, precision="fp16", recipe=recipe)
    overflowing = MixERConfig(lambda_orthogonal=1e35)
    net, start, _ = run_network(data, name, wrap=overflowing, precision="fp16", recipe=recipe)
    assert same(alone.state_dict(), base_state_dict(net))
    assert not same(alone.state_dict(), start)
    head = "mixer.heads.visible.stage"
    stuck = [n for n, _ in net.mixer.heads.visible.stage.named_parameters()]
    assert all(torch.equal(net.state_dict()[f"{head}.{n}"], start[f"{head}.{n}"]) for n in stuck)
    # The same heads train where nothing overflows, and the base is the same again.
    net, start, _ = run_network(data, name, wrap=MixERConfig(), precision="fp16", recipe=recipe)
    assert same(alone.state_dict(), base_state_dict(net))
    assert not torch.equal(net.state_dict()[f"{head}.{stuck[0]}"], start[f"{head}.{stuck[0]}"])


@pytest.mark.slow
def test_scales_of_both_parts_survive_an_interruption(data, tmp_path):
    """The heads' scale has fallen below the base's by then."""
    config = MixERConfig(lambda_orthogonal=1e9)

    def run(path, stop=None):
        net = create_network(config)

        def interrupt(step, loss):
            if step == stop:
                raise KeyboardInterrupt

        fit(
            net,
            [p for p in net.parameters() if p.requires_grad],
            WithMixER(create_loop("saai-base")),
            data,
            RECIPE,
            seed=0,
            options=TrainingOptions(precision="fp16", checkpoint_every=2),
            checkpoint=path,
            on_step=interrupt,
        )
        return net

    whole = run(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resume.pt", stop=4)
    parts = torch.load(tmp_path / "resume.pt", weights_only=True)["parts"]
    assert parts["heads"]["scaler"]["scale"] < parts["base"]["scaler"]["scale"]
    assert same(whole.state_dict(), run(tmp_path / "resume.pt").state_dict())
    ends = [torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("whole", "resume")]
    assert ends[0]["parts"]["heads"]["scaler"] == ends[1]["parts"]["heads"]["scaler"]


def create_network(config):
    torch.manual_seed(0)
    return wrap_with_mixer(create_baseline("saai-base", 4, trunk="small"), "f", config=config)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"accumulate": 2}, {"ema": 0.5}])
def test_heads_in_mode_f_leave_the_base_bit_identical(data, options):
    alone, _, _ = run_network(data, "saai-base", **options)
    net, _, _ = run_network(data, "saai-base", wrap=MixERConfig(), **options)
    assert same(alone.state_dict(), base_state_dict(net))


@pytest.mark.slow
def test_a_compiled_wrapped_network_trains_the_same(data):
    eager, _, _ = run_network(data, "saai-base", wrap=MixERConfig(), mode="e2e")
    fast, _, _ = run_network(data, "saai-base", wrap=MixERConfig(), mode="e2e", compile="eager")
    assert all(
        torch.allclose(v, fast.state_dict()[k], atol=1e-5) for k, v in eager.state_dict().items()
    )


@pytest.mark.slow
def test_a_compiler_that_is_missing_is_named(data, monkeypatch, tmp_path):
    import torch._inductor.config as inductor

    with pytest.raises(MixERError, match=r"compile is 'inducter'.*Did you mean 'inductor'"):
        train(data, compile="inducter")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "fx_graph_cache", False)
    with pytest.raises(MixERError, match=r"needs a C\+\+ compiler"):
        train(data, compile="inductor")


def test_combinations_that_cannot_work_are_refused(data):
    with pytest.raises(MixERError, match="loss scales of their own"):
        run_network(data, "saai-base", wrap=MixERConfig(), precision="fp16", compile="eager")
    with pytest.raises(MixERError, match="divisor"):
        train(data, accumulate=3)
    if not torch.cuda.is_available():
        with pytest.raises(MixERError, match="no GPU"):
            train(data, device="cuda")


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"precison": "bf16"}, "Did you mean 'precision'"),
        ({"precision": "bf17"}, "Did you mean 'bf16'"),
        ({"accumulate": 0}, ">= 1"),
        ({"ema": 1.0}, r"\(0, 1\)"),
        ({"compile": True}, "backend's name"),
        ({"log": "wandb"}, "jsonl, none, tensorboard"),
        ({"weights_missing": "none"}, "no training.weights"),
        ({"channels_last": 1}, "true or false"),
    ],
)
def test_option_errors(values, hint):
    with pytest.raises(MixERError, match=hint):
        build(TrainingOptions, values, "training")


def watched(values, window=4):
    said = []
    watch = ConfusionWatch(said.append, window)
    for value in values:
        watch.see(None if value is None else torch.tensor(value))
    return said


def test_watch_over_the_confusion_loss():
    assert watched([0.69] * 20) == []
    assert watched([0.80, 0.58] * 10) == []
    assert watched([0.8] * 3) == []
    assert watched([None] * 20) == []
    (advice,) = watched([math.log(2)] * 4 + [0.8] * 20)
    assert "0.800" in advice
    assert "mixer.reversal" in advice


@pytest.mark.slow
def test_the_watch_is_on_in_e2e_and_not_in_f(data, monkeypatch):
    recipe = dataclasses.replace(RECIPE, iterations=200, p=2, k=2)
    overshooting = MixERConfig(reversal=50.0, reversal_warmup=0, lambda_confusion=5.0)

    class Short(ConfusionWatch):
        def __init__(self, warn):
            super().__init__(warn, 10)

    monkeypatch.setattr("mixer_plugin.benchmarks.training.fit.ConfusionWatch", Short)
    recipe = dataclasses.replace(recipe, iterations=30)
    counts = {
        mode: len(run_network(data, "saai-base", wrap=overshooting, mode=mode, recipe=recipe)[2])
        for mode in ("e2e", "f")
    }
    assert counts == {"e2e": 1, "f": 0}


class Breaking(Rows):
    """From the second step on a term of this value, and gradients times a slope squared."""

    def __init__(self, value, slope):
        super().__init__()
        self.value, self.slope, self.steps = value, slope, 0

    def forward(self, net, batch):
        step = super().forward(net, batch)
        self.steps += 1
        if self.steps < 2:
            return step
        term = torch.full((), self.value)
        loss = step.loss + term + (step.loss - step.loss.detach()) * self.slope * self.slope
        return Step(None, loss, {"centre": term})


@pytest.mark.parametrize(
    ("value", "slope", "words"),
    [
        (math.nan, math.nan, "First not finite, at step 2: centre, the loss"),
        (0.0, 1e30, "After step 2 .* gradients were too large"),
    ],
)
def test_a_network_that_is_not_finite_is_never_saved(data, tmp_path, value, slope, words):
    path, model, loop = tmp_path / "run.pt", independent(), Breaking(value, slope)
    options = TrainingOptions(checkpoint_every=1)
    run = {"seed": 0, "options": options, "checkpoint": path}
    with pytest.raises(MixERError, match=words):
        fit(model, list(model.parameters()), loop, data, RECIPE, **run)
    assert not all(p.isfinite().all() for p in model.parameters())
    assert steps_in(path) == 1


def test_a_lower_rate_trains_what_a_higher_one_breaks(data):
    """The advice of the error; the options of a run that is longer than the log's window."""
    model, plan = independent(), dataclasses.replace(RECIPE, iterations=30, lr=1e30)
    options = TrainingOptions(log_every=5, log="none")
    with pytest.raises(MixERError, match=r"After step 5 .*lower the learning rate"):
        fit(model, list(model.parameters()), Rows(), data, plan, seed=0, options=options)
    model, plan = independent(), dataclasses.replace(plan, lr=0.01)
    fit(model, list(model.parameters()), Rows(), data, plan, seed=0, options=options)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_loss_that_is_not_finite_while_the_network_is_stops_nothing(data):
    model = train(data, loop=Breaking(math.inf, 0.0))  # fp16's scaler leaves such a step out
    assert all(p.isfinite().all() for p in model.parameters())


def test_tensorboard_is_named_where_it_is_missing(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match="tensorboard"):
        train(data, log="tensorboard", folder=tmp_path)


def test_tensorboard_gets_the_scalars(data, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(data, log="tensorboard", log_every=2, folder=tmp_path)
    found = EventAccumulator(str(tmp_path / "tensorboard/run")).Reload()
    assert [event.step for event in found.Scalars("loss")] == [2, 4, 6]


def test_cut_of_a_batch_without_shapes():
    batch = Batch(torch.zeros(4, 3, 2, 2), *(torch.arange(4) for _ in range(3)))
    assert [part.labels.tolist() for part in cut(batch, 2, "grouped")] == [[0, 1], [2, 3]]
    assert [part.labels.tolist() for part in cut(batch, 2, "blocks")] == [[0, 2], [1, 3]]
