"""SGEIL: norms, losses, twin and CutMix against literal loops; names, resuming, its adapter."""

from __future__ import annotations

import copy
import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin import MixERConfig, mixer_loss, wrap_with_mixer
from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.adapters.sgeil import SGEILAdapter
from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.baselines.cutmix import Cut, draw_cut
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.baselines.losses import batch_hard_triplet_loss
from mixer_plugin.baselines.norm_sets import KindBlock, KindStem
from mixer_plugin.baselines.recipe import build_optimizer, load_recipe
from mixer_plugin.baselines.sgeil import SGEIL, SGEILLoop, generalized_mean, shape_parts
from mixer_plugin.baselines.sgeil_losses import (
    balance,
    complement_loss,
    consistency_loss,
    mutual_loss,
    orthogonality_loss,
    soft_cross_entropy,
)
from mixer_plugin.baselines.trunks import BasicBlock, Bottleneck, Stem, create_trunk
from mixer_plugin.errors import MixERRuntimeError, MixERValueError

SUFFIX = {0: "", 1: "_ir", 3: "_shape"}


def small() -> SGEIL:
    """Sets of norms that differ from each other."""
    torch.manual_seed(0)
    model: SGEIL = create_baseline("sgeil", 4, trunk="small")  # type: ignore[assignment]
    for norm in model.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
    return model


def batch(seed: int = 1) -> Batch:
    """Two rows of two identities per modality, not in the order of the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([3, 1, 1, 3]).repeat(2)
    modality = torch.tensor([0, 1]).repeat_interleave(4)
    images, shapes = torch.randn(2, 8, 3, 64, 32, generator=generator)
    return Batch(images, labels, modality, 1 + 2 * modality, shapes)


# The network


def literal_block(block: KindBlock, x: Tensor, suffix: str, stride: int) -> Tensor:
    def norm(name: str, y: Tensor) -> Tensor:
        part = block.get_submodule(name)
        return F.batch_norm(y, part.running_mean, part.running_var, part.weight, part.bias)  # type: ignore[arg-type]

    convs = [n for n, _ in block.named_children() if n.startswith("conv")]
    out = x
    for name in convs:
        conv = block.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        kernel = conv.weight.shape[-1]
        own = stride if name == ("conv2" if len(convs) == 3 else "conv1") else 1
        out = norm(f"bn{name[-1]}{suffix}", F.conv2d(out, conv.weight, None, own, kernel // 2))
        out = out.relu() if name != convs[-1] else out
    if block.downsample is not None:
        x = F.conv2d(x, block.downsample[0].weight, None, stride)
        x = norm(f"dsbn{suffix}" if suffix else "downsample.1", x)
    return (out + x).relu()


@pytest.mark.parametrize("modal", [0, 1, 3])
@pytest.mark.parametrize(
    ("kind", "inputs", "stride"),
    [(BasicBlock, 8, 2), (BasicBlock, 4, 1), (Bottleneck, 8, 2), (Bottleneck, 16, 1)],
)
def test_a_kind_of_images_has_norms_of_its_own(
    kind: type[BasicBlock], inputs: int, stride: int, modal: int
) -> None:
    torch.manual_seed(0)
    block = KindBlock(kind(inputs, 4, stride)).eval()
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
    x = torch.randn(3, inputs, 6, 4)
    torch.testing.assert_close(block(x, modal), literal_block(block, x, SUFFIX[modal], stride))
    own = {n for n, m in block.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = copy.deepcopy(block.state_dict())
    block.train()(x, modal)
    moved = {
        n
        for n in own
        if not torch.equal(block.state_dict()[f"{n}.running_var"], before[f"{n}.running_var"])
    }
    used = {n for n in own if (n.endswith(SUFFIX[modal]) if modal else "_" not in n)}
    assert moved == used


def test_a_block_is_the_plain_block_for_visible_images() -> None:
    torch.manual_seed(0)
    plain = Bottleneck(8, 4, 2)
    x = torch.randn(3, 8, 6, 4)
    expected = copy.deepcopy(plain)(x)
    torch.testing.assert_close(KindBlock(plain)(x), expected)


def test_stems_have_a_norm_for_shapes() -> None:
    torch.manual_seed(0)
    stem = KindStem(Stem("small")).eval()
    stem.bn1_shape.weight.data.mul_(2.0)
    x = torch.randn(2, 3, 16, 8)
    torch.testing.assert_close(stem(x, shape=True), 2 * stem(x))
    assert not hasattr(stem, "bn1_ir")


def test_norms_of_every_kind_start_as_those_of_the_weights_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = create_trunk("small")
    for name, value in source.state_dict().items():
        if "running" in name or (value.dim() == 1 and value.is_floating_point()):
            value.uniform_(0.5, 1.5)
    torch.save(source.state_dict(), tmp_path / "trunk.pt")
    model = create_baseline("sgeil", 4, trunk="small", weights=tmp_path / "trunk.pt")
    state, theirs = model.state_dict(), source.state_dict()
    for path in ("base_resnet.base.layer1.0", "base_resnet.base.layer4.0"):
        layer = path.removeprefix("base_resnet.base.")
        assert torch.equal(state[f"{path}.conv1.weight"], theirs[f"{layer}.conv1.weight"])
        assert torch.equal(state[f"{path}.bn1.running_var"], theirs[f"{layer}.bn1.running_var"])
        for kind in ("_ir", "_shape"):
            for name in ("weight", "bias"):
                key = f"{layer}.bn2.{name}"
                assert torch.equal(state[f"{path}.bn2{kind}.{name}"], theirs[key])
            assert torch.equal(state[f"{path}.bn2{kind}.running_var"], torch.ones(len(theirs[key])))
    for kind in ("_ir", "_shape"):
        key = f"base_resnet.base.layer2.0.dsbn{kind}.weight"
        assert torch.equal(state[key], theirs["layer2.0.downsample.1.weight"])
    key = "thermal_module.thermal.bn1_shape.weight"
    assert torch.equal(state[key], theirs["bn1.weight"])
    assert state[key].data_ptr() != state["thermal_module.thermal.bn1.weight"].data_ptr()


def test_generalized_mean() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    for b, c in itertools.product(range(2), range(3)):
        expected = (sum(float(v) ** 3 for v in x[b, c].flatten()) / 20) ** (1 / 3)
        assert float(generalized_mean(x)[b, c]) == pytest.approx(expected, rel=1e-9)
    large = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    assert float(generalized_mean(large)) == pytest.approx(300, rel=1e-3)
    zero = torch.zeros(1, 1, 2, 2, requires_grad=True)
    generalized_mean(zero).sum().backward()
    assert zero.grad is not None
    assert torch.equal(zero.grad, torch.zeros_like(zero))


def test_training_outputs() -> None:
    model, data = small(), batch()
    assert data.shapes is not None
    (v, i), (v2, i2) = data.images.chunk(2), data.shapes.chunk(2)
    maps: list[Tensor] = []
    model.base_resnet.register_forward_hook(lambda _, __, out: maps.append(out))
    out = model(v, i, v2, i2)
    assert [len(m) for m in maps] == [4, 4, 8]
    images, shape = out["rgbir"], out["shape"]
    torch.testing.assert_close(images["bef"], generalized_mean(torch.cat(maps[:2])))
    torch.testing.assert_close(shape["bef"], generalized_mean(maps[2]))
    necks = (model.bottleneck, model.bottleneck_ir, model.bottleneck_shape)
    found = (images["aft"][:4], images["aft"][4:], shape["aft"])
    for neck, before, after in zip(
        necks, (*images["bef"].chunk(2), shape["bef"]), found, strict=True
    ):
        torch.testing.assert_close(
            after, F.batch_norm(before, None, None, neck.weight, training=True)
        )
    torch.testing.assert_close(images["zp"], images["aft"] @ model.projs[0])
    torch.testing.assert_close(shape["zp"], shape["aft"] @ model.projs[1])
    unit = [column / column.norm() for column in model.projs[0].T]
    taken = sum((images["aft"] @ u)[:, None] * u for u in unit)
    torch.testing.assert_close(images["other"], images["aft"] - taken)
    torch.testing.assert_close(images["logit"], images["aft"] @ model.classifier.weight.T)
    torch.testing.assert_close(images["logit2"], images["other"] @ model.classifier.weight.T)
    torch.testing.assert_close(shape["logit"], shape["zp"] @ model.classifier_shape.weight.T)

    twin = small()
    pooled, logits = twin(v, i)
    torch.testing.assert_close(pooled, images["bef"])
    torch.testing.assert_close(logits, images["logit"])


@pytest.mark.parametrize("training", [True, False])
def test_shape_parts_are_the_networks_and_leave_its_statistics(training: bool) -> None:
    model, data = small().train(training), batch()
    assert data.shapes is not None
    out = model(*data.images.chunk(2), *data.shapes.chunk(2))["rgbir"]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    part, logits = shape_parts(model, out["bef"])
    torch.testing.assert_close(part, out["zp"])
    torch.testing.assert_close(logits, out["logit2"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_evaluation_outputs() -> None:
    model, data = small().eval(), batch()
    v, i = data.images.chunk(2)
    pooled, _ = model(v, i)
    for mode, images, neck in ((1, v, model.bottleneck), (2, i, model.bottleneck_ir)):
        before, after = model(images, images, mode=mode)
        rows = pooled.chunk(2)[mode - 1]
        torch.testing.assert_close(before, F.normalize(rows))
        torch.testing.assert_close(after, F.normalize(neck(rows)))
    assert not torch.allclose(model(v, v, mode=1)[0], model(v, v, mode=2)[0])


# Losses


def literal_soft(logits: Tensor, teacher: Tensor) -> Tensor:
    loss = torch.zeros((), dtype=logits.dtype)
    for row, other in zip(logits, teacher, strict=True):
        target = other.exp() / other.exp().sum()
        loss = loss - sum(
            t.detach() * (x - row.exp().sum().log()) for t, x in zip(target, row, strict=True)
        )
    return loss / len(logits)


def test_soft_and_mutual_cross_entropy_equal_the_loop() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    v, i = logits.chunk(2)
    torch.testing.assert_close(soft_cross_entropy(v, i), literal_soft(v, i))
    expected = literal_soft(v, i) + literal_soft(i, v)
    torch.testing.assert_close(mutual_loss(logits), expected)
    grads = [torch.autograd.grad(x, logits)[0] for x in (mutual_loss(logits), expected)]
    torch.testing.assert_close(*grads)


def test_complement_equals_the_loop() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([2, 0, 2, 0, 2])
    logits = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    shapes = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    (v, i), (sv, si) = logits.chunk(2), shapes.detach().chunk(2)
    cos = torch.nn.functional.cosine_similarity
    expected = literal_soft(v, i) + literal_soft(i, v)
    for own, other, here, there in ((v, i, sv, si), (i, v, si, sv)):
        teachers = []
        for row in range(5):
            mates = [m for m in range(5) if labels[m] == labels[row]]
            teachers.append(min(mates, key=lambda m: float(cos(here[row], there[m], dim=0))))
        assert teachers != list(range(5))
        expected = expected + literal_soft(own, other[teachers])
    found = complement_loss(logits, shapes, labels.repeat(2))
    torch.testing.assert_close(found, expected)
    found.backward()
    assert shapes.grad is None
    assert logits.grad is not None


def test_consistency_equals_the_loop_and_spares_the_classifier() -> None:
    torch.manual_seed(0)
    part = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    taught = {"zp": torch.randn(4, 3).double(), "logit": torch.randn(4, 5).double()}
    distance = (
        sum(
            float((a - b) ** 2)
            for a, b in zip(part.detach().flatten(), taught["zp"].flatten(), strict=True)
        )
        / 12
    )
    expected = distance + float(literal_soft(part @ weight.T, taught["logit"]).detach())
    loss = consistency_loss(part, taught, weight)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert weight.grad is None
    assert part.grad is not None


def test_orthogonality_equals_the_loop() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(6, 3, dtype=torch.float64)
    total = 0.0
    for a, b in itertools.product(range(3), range(3)):
        cosine = F.cosine_similarity(matrix[:, a], matrix[:, b], dim=0)
        total += abs(float(cosine) - (a == b)) / 3
    assert float(orthogonality_loss(matrix)) == pytest.approx(total, rel=1e-9)
    assert float(orthogonality_loss(3 * torch.eye(6)[:, :3])) == pytest.approx(0, abs=1e-6)


def test_weights_are_the_shares_of_the_gradients() -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(3, 3, dtype=torch.float64)
    first, second = features.pow(2).sum(), (features @ other).sin().sum()
    w1, w2 = balance(first, second, features)
    a = (2 * features).norm(dim=1).mean()
    b = ((features @ other).cos() @ other.T).norm(dim=1).mean()
    torch.testing.assert_close((w1, w2), ((2 * a / (a + b)).detach(), (2 * b / (a + b)).detach()))
    assert float(w1 + w2) == pytest.approx(2)
    assert not w1.requires_grad
    (w1 * first + w2 * second).backward()  # the graph is still there
    assert features.grad is not None


# The loop


def started(model: nn.Module, mix: float = 0.0, epoch: int = 0) -> SGEILLoop:
    loop = SGEILLoop(mix=mix)
    loop.start_epoch(model, epoch)
    return loop


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


# Checkpoints

NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def public_names(trunk: str) -> list[str]:
    """Every name in the public checkpoint, from the structure of the public code."""
    names = []
    for stem in ("thermal_module.thermal", "visible_module.visible", "base_resnet.base"):
        kinds = ["_shape", "_ir"] if stem.startswith("base") else ["_shape"]
        for name in create_trunk(trunk).state_dict():
            names.append(f"{stem}.{name}")
            before, _, last = name.rpartition(".")
            place, _, norm = before.rpartition(".")
            place = f"{stem}.{place}." if place else f"{stem}."
            if norm.startswith("bn"):
                names += [f"{place}{norm}{kind}.{last}" for kind in kinds]
            elif before.endswith("downsample.1"):
                names += [f"{place.removesuffix('downsample.')}dsbn{kind}.{last}" for kind in kinds]
    necks = ("bottleneck", "bottleneck_shape", "bottleneck_ir")
    names += [f"{neck}.{name}" for neck in necks for name in NORM]
    names += [f"classifier{kind}.weight" for kind in ("", "_shape", "_ir")]
    return [*names, "projs.0", "projs.1"]


def test_names_are_the_public_ones() -> None:
    public = public_names("resnet50")
    assert len(public) == len(set(public)) == 2034  # counted on the public model
    ours = set(create_baseline("sgeil", 395).state_dict())
    assert ours <= set(public)
    stem = {"conv1", "bn1", "bn1_shape", "bn1_ir"}
    for name in set(public) - ours:
        where, _, rest = name.partition(".layer")
        in_a_stem = where in ("thermal_module.thermal", "visible_module.visible") and rest
        in_the_base = where == name and name.split(".")[2:3] and name.split(".")[2] in stem
        assert in_a_stem or in_the_base or name == "classifier_ir.weight", name


def test_shapes_of_the_public_resnet50_model() -> None:
    shapes = {k: tuple(v.shape) for k, v in create_baseline("sgeil", 395).state_dict().items()}
    assert shapes["projs.0"] == shapes["projs.1"] == (2048, 512)
    assert shapes["classifier.weight"] == (395, 2048)
    assert shapes["classifier_shape.weight"] == (395, 512)
    assert shapes["base_resnet.base.layer4.0.dsbn_ir.weight"] == (2048,)


def test_load_official(tmp_path: Path) -> None:
    source = small()
    state = dict(source.state_dict())
    dead = {key: torch.ones(1) for key in public_names("small") if key not in state}
    cmc = np.linspace(0, 1, 20)
    content = {"net": {**state, **dead}, "cmc": cmc, "mAP": cmc.mean(), "epoch": 7}
    torch.save(content, tmp_path / "best.t")
    model = create_baseline("sgeil", 4, trunk="small")
    report = load_official(model, tmp_path / "best.t")
    assert set(report.loaded) == set(state)
    assert set(report.dead) == set(dead)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert len(set(report.dead.values())) == 4
    assert "classifier that no forward uses" in str(report)
    torch.save({"net": {**state, "bottleneck_modalx.weight": torch.ones(1)}}, tmp_path / "best.t")
    with pytest.raises(MixERValueError, match=r"1 unknown: bottleneck_modalx\.weight"):
        load_official(model, tmp_path / "best.t")


def test_errors() -> None:
    for mix in (-0.1, 1.5):
        with pytest.raises(MixERValueError, match=rf"mix is {mix}"):
            SGEILLoop(mix=mix)
    model, data = small(), batch()
    with pytest.raises(MixERRuntimeError, match=r"start_epoch\(net, epoch\)"):
        SGEILLoop(mix=0.0)(model, data)
    loop = started(model)
    with pytest.raises(MixERValueError, match=r"Batch\(shapes=\[B, 3, H, W\]\)"):
        loop(model, dataclasses.replace(data, shapes=None))
    assert data.shapes is not None
    with pytest.raises(MixERValueError, match=r"\[8, 3, 64, 32\].*\[8, 3, 32, 32\]"):
        loop(model, dataclasses.replace(data, shapes=data.shapes[:, :, ::2]))
    data.labels[0] = 0
    with pytest.raises(MixERValueError, match="order='blocks'"):
        loop(model, data)


# The adapter


def read(model: nn.Module, *args: Tensor, mode: int = 0) -> object:
    with model.mixer.matching():  # type: ignore[union-attr, operator]
        return model(*args, mode=mode)


def test_adapter_joins_the_calls_of_both_modalities() -> None:
    data = batch()
    assert data.shapes is not None
    (v, i), shapes = data.images.chunk(2), data.shapes.chunk(2)
    model = wrap_with_mixer(small(), seed=0)
    record = lambda: model.mixer.record  # type: ignore[union-attr]  # noqa: E731
    assert model.mixer.adapter.name == "sgeil"  # type: ignore[union-attr]
    for training, given in itertools.product((True, False), ((), shapes)):
        model.train(training)
        out = read(model, v, i, *given)
        before = out["rgbir"]["bef"] if given else out[0]  # type: ignore[index]
        assert torch.equal(record().erased_before, before.detach() if not training else before)
        if given:
            assert torch.equal(record().erased_after, out["rgbir"]["aft"])  # type: ignore[index]
        assert record().stage_input.shape[0] == 8
        assert torch.equal(record().modality, data.modality)
        if not training:
            # Clones as they start are the stage: with its norms of their modality, the same again.
            torch.testing.assert_close(record().related_before, before)
    for mode, images in ((1, v), (2, i)):
        out = read(model, images, images, mode=mode)
        torch.testing.assert_close(F.normalize(record().erased_after), out[1])  # type: ignore[index]
        torch.testing.assert_close(F.normalize(record().related_before), out[0])  # type: ignore[index]
        assert record().modality.tolist() == [mode - 1] * 4


@pytest.mark.parametrize("control", ["none", "shared-head"])
def test_norms_that_a_clone_never_uses_are_frozen(control: str) -> None:
    model = wrap_with_mixer(small(), config=MixERConfig(control=control), seed=0).train()
    loop = started(model)
    step = loop(model, batch())
    (step.loss + mixer_loss(model, step.labels)).backward()  # type: ignore[arg-type]
    for head, kind in (
        (("visible", ""), ("infrared", "_ir")) if control == "none" else (("shared", ""),)
    ):
        stage = model.mixer.heads[head].stage  # type: ignore[union-attr, index]
        for name, parameter in stage.named_parameters():
            norm = name.rpartition(".")[0]
            is_norm = "bn" in norm or norm.endswith("downsample.1")
            used = not is_norm or (
                norm.endswith(kind) if kind else not norm.endswith(("_ir", "_shape"))
            )
            assert parameter.requires_grad == used, name
            assert (parameter.grad is not None) == used, name
    base = model.get_submodule("base_resnet.base.layer4")
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_adapter_pools_as_the_network_does() -> None:
    torch.manual_seed(0)
    stage_map = torch.rand(2, 5, 4, 3) * 40
    model = small()
    assert torch.equal(SGEILAdapter().pool(model, stage_map), generalized_mean(stage_map))
    half = SGEILAdapter().pool(model, stage_map.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), generalized_mean(stage_map), rtol=1e-2, atol=0)


def test_adapter_embeds_as_the_public_test_does() -> None:
    model = small().eval()
    images = batch().images
    modality = torch.tensor([1, 0, 0, 1, 1, 1, 0, 0])
    found = resolve_adapter(model).embed(model, images, modality)
    with torch.no_grad():
        for row in range(8):
            views = [images[row : row + 1], images[row : row + 1].flip(3)]
            mode = 1 + int(modality[row])
            expected = sum(model(view, view, mode=mode)[1][0] for view in views) / 2
            torch.testing.assert_close(found[row], expected)


def test_adapter_explains_a_forward_it_does_not_know() -> None:
    adapter = SGEILAdapter()
    taps = adapter.taps(small())
    calls = {name: [torch.zeros(1)] for name in taps}
    with pytest.raises(MixERRuntimeError, match=r"bottleneck_ir \(output\)': 1[\s\S]*neck per"):
        adapter.read({**calls, "stage_input": []}, taps)
