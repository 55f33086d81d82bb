"""SGEIL's loop: its terms, its twin, CutMix, and that it resumes bit for bit."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_plugin import mixer_loss, wrap_with_mixer
from mixer_plugin.baselines.common.cutmix import Cut, draw_cut
from mixer_plugin.baselines.common.losses import batch_hard_triplet_loss
from mixer_plugin.baselines.recipe import build_optimizer, load_recipe
from mixer_plugin.baselines.sgeil import SGEIL, SGEILLoop
from mixer_plugin.baselines.sgeil_losses import (
    balance,
    complement_loss,
    consistency_loss,
    mutual_loss,
    orthogonality_loss,
)
from tests.unit.baselines.small_sgeil import batch, small, started


def test_loop_adds_up_the_public_terms() -> None:
    model, data = small(), batch()
    loop = started(model)
    assert loop.twin is not None
    with torch.no_grad():  # as it would be later in training
        for p in loop.twin.parameters():
            p.mul_(1.1)
    twin = copy.deepcopy(loop.twin)
    step = loop(model, data)
    assert data.shapes is not None
    with torch.no_grad():
        taught = twin(*data.images.chunk(2), *data.shapes.chunk(2))["shape"]
    images, shape = step.outputs["rgbir"], step.outputs["shape"]
    expected = {
        "id": F.cross_entropy(images["logit"], data.labels),
        "tri": batch_hard_triplet_loss(images["bef"], data.labels, 0.3),
        "shape": F.cross_entropy(shape["logit"], data.labels),
        "mutual": mutual_loss(images["logit"]),
        "ortho": orthogonality_loss(model.projs[0]),
        "consistent": consistency_loss(images["zp"], taught, model.classifier_shape.weight),
        "erased": F.cross_entropy(images["logit2"], data.labels),
        "complement": complement_loss(images["logit2"], shape["zp"], data.labels),
    }
    for name, value in expected.items():
        assert not step.terms[name].requires_grad
        torch.testing.assert_close(step.terms[name], value.detach())
    assert set(step.terms) == {*expected, "w1", "w2"}
    w1, w2 = step.terms["w1"], step.terms["w2"]
    assert int(model.bottleneck.num_batches_tracked) == 1  # type: ignore[arg-type]
    # As the public loop finds them: one output differentiated by another.
    without_shape = expected["erased"] + expected["complement"]
    weights = balance(expected["consistent"], without_shape, images["bef"])
    torch.testing.assert_close((w1, w2), weights)
    assert float(w1 + w2) == pytest.approx(2, rel=1e-5)
    assert 0 < float(w1) < 2
    total = sum(expected[name] for name in ("id", "tri", "shape", "mutual", "ortho"))
    total = total + w1 * expected["consistent"] + w2 * (expected["erased"] + expected["complement"])
    torch.testing.assert_close(step.loss, total)
    assert step.labels is data.labels
    step.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for p in loop.twin.parameters())


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 1e-3), (19, 1e-3), (20, 1e-4), (84, 1e-4), (85, 1e-5), (119, 1e-5)]
)
def test_twin_follows_the_network(epoch: int, rate: float) -> None:
    model = small()
    loop = started(model, epoch=epoch)
    assert loop.twin is not None
    assert loop.twin.training
    assert not any(p.requires_grad for p in loop.twin.parameters())
    before = {k: v.clone() for k, v in loop.twin.state_dict().items()}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.rand_like(p))
    buffers = {k for k, _ in model.named_buffers()}
    loop.stepped(model)
    fast = {
        "classifier",
        "classifier_shape",
        "projs",
        "bottleneck",
        "bottleneck_ir",
        "bottleneck_shape",
    }
    for key, value in loop.twin.state_dict().items():
        if key in buffers:
            assert torch.equal(value, before[key]), key
            continue
        share = 2 * rate if key.split(".")[0] in fast else rate
        expected = before[key].double() * (1 - share) + share * model.state_dict()[key].double()
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=2e-7, msg=key)
        assert not torch.equal(value, before[key]), key
    recipe = load_recipe("sgeil")
    ema = recipe["ema"]
    assert loop.rate() == pytest.approx(
        ema["rate"] * ema["gamma"] ** sum(epoch >= m for m in ema["milestones"])
    )
    assert recipe["cutmix"] == SGEILLoop().mix


def test_twin_has_the_statistics_of_its_own_forwards() -> None:
    model = small()
    loop = started(model, mix=1.0)
    assert loop.twin is not None
    for seed, mix in enumerate((0.0, 1.0)):
        loop.mix = mix
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.2)
        before = {k: v.clone() for k, v in loop.twin.named_buffers() if "running_mean" in k}
        loop(model, batch(seed))
        after = dict(loop.twin.named_buffers())
        assert all(not torch.equal(v, after[k]) for k, v in before.items())
        name = "base_resnet.base.layer4.0.bn2_ir.running_mean"
        assert not torch.allclose(after[name], dict(model.named_buffers())[name])


def test_a_loop_that_never_mixes_draws_nothing() -> None:
    model = small()
    loop = started(model)
    before = torch.get_rng_state()
    loop(model, batch())
    loop.stepped(model)
    loop.start_epoch(model, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_share_of_mixed_batches() -> None:
    """Those whose draw from the global state lies below ``mix``."""
    model, data = small(), batch()
    loop = started(model, mix=0.3)
    mixed = []
    for seed in range(20):
        torch.manual_seed(seed)
        expected = float(torch.rand(())) < 0.3
        torch.manual_seed(seed)
        mixed.append(loop(model, data).labels is None)
        assert mixed[-1] == expected
    assert {True, False} == set(mixed)


def test_a_mixed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = small(), batch()
    loop = started(model, mix=1.0)
    cut = Cut(slice(0, 16), slice(8, 32), torch.tensor([1, 3, 0, 2]))
    monkeypatch.setattr("mixer_plugin.baselines.sgeil.draw_cut", lambda *sizes: cut)
    given: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, args: given.extend(args))
    original = data.images.clone()
    step = loop(model, data)
    assert torch.equal(data.images, original)
    assert data.shapes is not None
    for seen, source in ((torch.cat(given[:2]), data.images), (torch.cat(given[2:]), data.shapes)):
        for row in range(8):
            partner = int(cut.partners[row % 4]) + (4 if row < 4 else 0)
            for y, x in itertools.product((0, 15, 16, 63), (0, 7, 8, 31)):
                inside = y < 16 and x >= 8
                assert torch.equal(seen[row, :, y, x], source[partner if inside else row, :, y, x])
    images, shape = step.outputs["rgbir"], step.outputs["shape"]
    others = data.labels[[1, 3, 0, 2, 1, 3, 0, 2]]
    share = 1 - 16 * 24 / (64 * 32)
    expected = {
        name: share * F.cross_entropy(logits, data.labels)
        + (1 - share) * F.cross_entropy(logits, others)
        for name, logits in (("id", images["logit"]), ("shape", shape["logit"]))
    }
    expected["mutual"] = mutual_loss(images["logit"])
    expected["ortho"] = orthogonality_loss(model.projs[0])
    assert set(step.terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(step.terms[name], value.detach())
    torch.testing.assert_close(step.loss, sum(expected.values()))
    assert step.labels is None
    step.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_drawn_cuts() -> None:
    torch.manual_seed(0)
    cuts = [draw_cut(5, 64, 32) for _ in range(400)]
    for cut in cuts:
        for side, size in ((cut.rows, 64), (cut.columns, 32)):
            assert 0 <= side.start <= side.stop <= size
        assert sorted(cut.partners.tolist()) == list(range(5))
        area = (cut.rows.stop - cut.rows.start) * (cut.columns.stop - cut.columns.start)
        assert cut.share(64, 32) == pytest.approx(1 - area / 2048)
    inner = [
        c
        for c in cuts
        if c.rows.start > 0 and c.rows.stop < 64 and c.columns.start > 0 and c.columns.stop < 32
    ]
    assert len(inner) > 50
    for cut in inner:  # both sides in proportion, to the rounding of a half
        height, width = cut.rows.stop - cut.rows.start, cut.columns.stop - cut.columns.start
        assert abs(height - 2 * width) <= 4
    # The side's square is uniform; boxes at the border lose a part of it.
    sides = torch.tensor([(c.rows.stop - c.rows.start) / 64 for c in inner])
    assert sides.min() < 0.3
    assert sides.max() > 0.7
    assert len({tuple(c.partners.tolist()) for c in cuts}) > 50


def test_a_run_continues_bit_for_bit() -> None:
    def make() -> tuple[SGEIL, torch.optim.Optimizer, SGEILLoop]:
        model = small()
        return model, build_optimizer(model, load_recipe("sgeil")), SGEILLoop(mix=0.5)

    def train(
        model: SGEIL, optimizer: torch.optim.Optimizer, loop: SGEILLoop, steps: range
    ) -> None:
        model.train()
        for number in steps:
            if number % 2 == 0:
                loop.start_epoch(model, number // 2)
            torch.manual_seed(number)
            loss = loop(model, batch(number)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loop.stepped(model)

    straight = make()
    train(*straight, range(6))
    half = make()
    train(*half, range(3))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in half], file)

    for first in ("load", "start"):
        file.seek(0)
        states = torch.load(file)
        model, optimizer, loop = make()
        model.load_state_dict(states[0])
        optimizer.load_state_dict(states[1])
        if first == "start":
            loop.start_epoch(model, 1)
        loop.load_state_dict(states[2])
        if first == "load":
            loop.start_epoch(model, 1)
        train(model, optimizer, loop, range(3, 6))
        for expected, found in ((straight[0], model), (straight[2], loop)):
            theirs, ours = expected.state_dict(), found.state_dict()
            assert list(theirs) == list(ours)
            assert all(torch.equal(value, ours[key]) for key, value in theirs.items())
    assert len(straight[2].state_dict()) == len(straight[0].state_dict()) + 1


def test_a_wrapped_network_has_a_wrapped_twin() -> None:
    model = wrap_with_mixer(small(), seed=0).train()
    loop = started(model)
    step = loop(model, batch())
    (step.loss + mixer_loss(model, step.labels)).backward()  # type: ignore[arg-type]
    loop.stepped(model)
    assert loop.twin is not None
    assert list(loop.twin.state_dict()) == list(model.state_dict())
