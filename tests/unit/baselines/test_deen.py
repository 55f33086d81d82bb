"""DEEN: blocks and losses against literal loops, names, checkpoints, and what its adapter reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin import wrap_with_mixer
from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.baselines.common.losses import batch_hard_triplet_loss
from mixer_plugin.baselines.common.trunks import Stem, Trunk
from mixer_plugin.baselines.deen import (
    DEEN,
    ChannelNonLocal,
    DEENLoop,
    Expansion,
    PositionNonLocal,
    center_pair_loss,
)
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.errors import MixERValueError


def small(dataset: str = "sysu") -> DEEN:
    torch.manual_seed(0)
    model: DEEN = create_baseline("deen", 4, trunk="small", dataset=dataset)  # type: ignore[assignment]
    for name, norm in model.named_modules():
        if name.endswith("W.1"):
            nn.init.normal_(norm.weight)  # type: ignore[arg-type]  # zero: no aggregation at all
    return model


def batch() -> Batch:
    """Two rows of two identities per modality, not in the order of the labels."""
    torch.manual_seed(1)
    labels = torch.tensor([3, 1, 1, 3]).repeat(2)
    modality = torch.tensor([0, 1]).repeat_interleave(4)
    return Batch(torch.randn(8, 3, 64, 32), labels, modality, 1 + 2 * modality)


def convolved(conv: nn.Module, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias)  # type: ignore[arg-type]


def test_expansion_is_the_map_and_two_means_of_dilated_convolutions() -> None:
    torch.manual_seed(0)
    expand = Expansion(8, drop=0.0)
    x = torch.randn(2, 8, 6, 4)
    blocks = expand(x).chunk(3)
    assert torch.equal(blocks[0], x)
    for branch in (1, 2):
        mean = torch.zeros(2, 2, 6, 4)
        for dilation in (1, 2, 3):
            weight = expand.get_parameter(f"FC{branch}{dilation}.weight")
            mean += F.conv2d(x, weight, padding=dilation, dilation=dilation) / 3
        expected = convolved(expand.get_submodule(f"FC{branch}"), mean.relu())
        torch.testing.assert_close(blocks[branch], expected)


def test_expansion_drops_out_in_training_alone() -> None:
    torch.manual_seed(0)
    expand = Expansion(8, drop=0.5)
    x = torch.ones(2, 8, 6, 4)
    dropped = expand(x)[:2]
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(expand.eval()(x)[:2], x)


def statistics(norm: nn.Module) -> None:
    """Weights and statistics of a batch norm that change what passes."""
    for name, value in norm.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + (0.5 if name == "running_var" else 0.0))


@pytest.mark.parametrize("stride", [1, 2])
def test_channels_attend_to_channels(stride: int) -> None:
    torch.manual_seed(0)
    block = ChannelNonLocal(high=3, low=2, stride=stride).double().eval()
    statistics(block.W[1])
    high = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    low = torch.randn(2, 2, 4 * stride, 2 * stride, dtype=torch.float64)
    g, theta = convolved(block.g, low), convolved(block.theta, high)
    phi = convolved(block.phi, low[:, :, ::stride, ::stride])
    mixed = torch.zeros_like(g)
    for b in range(2):
        for i in range(2):
            for j in range(2):
                mixed[b, i] += (theta[b, i] * phi[b, j]).sum() / 2 * g[b, j]
    added = convolved(block.W[0], mixed[:, :, ::stride, ::stride])
    torch.testing.assert_close(block(high, low), high + block.W[1](added))


@pytest.mark.parametrize("stride", [1, 2])
def test_positions_attend_to_positions_half_by_half(stride: int) -> None:
    torch.manual_seed(0)
    block = PositionNonLocal(high=3, low=4).double().eval()
    statistics(block.W[1])
    high = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    low = torch.randn(2, 4, 4 * stride, 2 * stride, dtype=torch.float64)
    query = convolved(block.theta, high).flatten(2)
    key, value = convolved(block.phi, low).flatten(2), convolved(block.g, low).flatten(2)
    here, there = query.shape[2] // 2, key.shape[2] // 2
    mixed = torch.zeros_like(query)
    for b in range(2):
        for p in range(here):  # this position of the upper half, with that of the lower half
            for q in range(there):
                weight = 0.0
                for c in range(2):
                    weight += query[b, c, p] * key[b, c, q]
                    weight += query[b, c, here + p] * key[b, c, there + q]
                for c in range(2):
                    mixed[b, c, p] += weight / there * value[b, c, q]
                    mixed[b, c, here + p] += weight / there * value[b, c, there + q]
    added = convolved(block.W[0], mixed.view(2, 2, 4, 2))
    torch.testing.assert_close(block(high, low), high + block.W[1](added))


def test_a_map_without_halves_is_refused() -> None:
    block = PositionNonLocal(high=3, low=4)
    with pytest.raises(MixERValueError, match=r"3x3 positions have none[\s\S]*multiple of 32"):
        block(torch.zeros(1, 3, 3, 3), torch.zeros(1, 4, 6, 6))


def test_aggregations_start_as_nothing() -> None:
    """A network with ImageNet's weights begins with ImageNet's features."""
    model = create_baseline("deen", 4, trunk="small").eval()
    images = batch().images
    x = model.base_resnet.base.layer1(model.visible_module(images))
    torch.testing.assert_close(model.MFA1(x, model.visible_module(images)), x)


def literal_center_pair_loss(original: Tensor, variant: Tensor, labels: Tensor) -> Tensor:
    half = len(labels) // 2
    names = ("v", "i", "V", "I")
    rows = dict(zip(names, [*original.chunk(2), *variant.chunk(2)], strict=True))
    ids = sorted({int(y) for y in labels})
    center = {(n, y): rows[n][labels[:half] == y].mean(0) for n in names for y in ids}
    zero, losses = torch.zeros((), dtype=original.dtype), []
    for y in ids:
        for own, other, moved in (("v", "i", "V"), ("i", "v", "I")):
            across = (center[other, y] - center[moved, y]).norm()
            home = (center[own, y] - center[moved, y]).norm().detach()
            losses.append(max(0.2 + across - home, zero) / 2)
            for kind in (moved, own):
                near = min((center[kind, y] - center[kind, z]).norm() for z in ids if z != y)
                losses.append(max(0.2 + across - near, zero) / 4)
    return sum(losses) / len(ids)


@pytest.mark.parametrize("scale", [0.05, 0.3, 3.0])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [5, 2, 5, 2], [3, 3, 3, 1], [0, 1, 2, 3]])
def test_center_pair_loss_and_its_gradient_equal_the_loop(labels: list[int], scale: float) -> None:
    torch.manual_seed(0)
    target = torch.tensor(labels).repeat(2)
    found = []
    for loss in (center_pair_loss, literal_center_pair_loss):
        torch.manual_seed(2)
        features = (torch.randn(2, 8, 5, dtype=torch.float64) * scale).requires_grad_()
        value = loss(features[0], features[1], target)
        value.backward()
        assert features.grad is not None
        assert features.grad.abs().max() > 0
        found.append((value.detach(), features.grad))
    torch.testing.assert_close(found[0], found[1])


def test_center_pair_loss_of_one_identity_has_nothing_near() -> None:
    features = torch.randn(2, 4, 3, dtype=torch.float64)
    labels = torch.zeros(4, dtype=torch.int64)
    (v, i), (v2, i2) = (f.view(2, 2, 3).mean(1) for f in features)
    expected = (0.2 + (i - v2).norm() - (v - v2).norm()).relu() / 2
    expected = expected + (0.2 + (v - i2).norm() - (i - i2).norm()).relu() / 2
    torch.testing.assert_close(center_pair_loss(features[0], features[1], labels), expected)


@pytest.mark.parametrize(("dataset", "width"), [("sysu", 128), ("llcm", 128), ("regdb", 64)])
def test_outputs(dataset: str, width: int) -> None:
    model, data = small(dataset), batch()
    visible, infrared = data.images.chunk(2)
    pooled, logits, similarity = model(visible, infrared)
    assert pooled.shape == (24, width)
    assert logits.shape == (24, 4)
    first, second = pooled[8:16], pooled[16:]
    expected = sum(float((a @ b).detach()) for a, b in zip(first, second, strict=True)) / 24
    assert float(similarity.detach()) == pytest.approx(expected, rel=1e-5)

    model.eval()
    both = model(visible, infrared)
    assert [len(x) for x in both] == [24, 24]
    for modal, images in ((1, visible), (2, infrared)):
        alone = model(images, images, modal)
        for a, b in zip(alone, both, strict=True):
            torch.testing.assert_close(a.norm(dim=1), torch.ones(12))
            # Blocks of 4 rows of one modality, among blocks of 8 of both.
            rows = b.view(3, 2, 4, width)[:, modal - 1].reshape(12, width)
            torch.testing.assert_close(a, rows)
    assert hasattr(model, "MFA3") == hasattr(model.base_resnet.base, "layer4") == (width == 128)


def test_loop_adds_up_the_public_terms() -> None:
    model, data = small(), batch()
    loop = DEENLoop()
    torch.manual_seed(3)
    step = loop(model, data)
    pooled, logits, similarity = step.outputs
    labels = torch.cat([data.labels] * 3)
    blocks = pooled.chunk(3)
    expected = {
        "id": F.cross_entropy(logits, labels),
        "tri": batch_hard_triplet_loss(pooled, labels, 0.3),
        "cpm": literal_center_pair_loss(blocks[0], blocks[1], data.labels)
        + literal_center_pair_loss(blocks[0], blocks[2], data.labels),
        "ort": similarity,
    }
    assert list(step.terms) == list(expected)
    for name, value in expected.items():
        assert not step.terms[name].requires_grad
        torch.testing.assert_close(step.terms[name], value.detach(), rtol=1e-4, atol=1e-5)
    weights = {"id": 1.0, "tri": 1.0, "cpm": 0.8, "ort": 0.01}
    total = sum(weights[name] * value for name, value in step.terms.items())
    torch.testing.assert_close(step.loss.detach(), total)
    assert step.labels is not None
    assert torch.equal(step.labels, data.labels)
    step.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
# Of the public model, counted on it.
PUBLIC = {"sysu": 1048, "regdb": 1022}


def public_names(dataset: str) -> list[str]:
    """Every name in the public checkpoint, from the structure of the public code."""
    resnet = list(Trunk("resnet50").state_dict())
    stems = ("thermal_module.thermal", "visible_module.visible", "base_resnet.base")
    names = [f"{stem}.{name}" for stem in stems for name in resnet]
    for branch in (1, 2):
        names += [f"DEE.FC{branch}{dilation}.weight" for dilation in (1, 2, 3)]
        names += [f"DEE.FC{branch}.{name}" for name in ("weight", "bias")]
    for number in (1, 2) if dataset == "regdb" else (1, 2, 3):
        for kind in ("CNL", "PNL"):
            parts = [(part, ["weight", "bias"]) for part in ("g", "theta", "phi", "W.0")]
            for part, inside in [*parts, ("W.1", NORM)]:
                names += [f"MFA{number}.{kind}.{part}.{name}" for name in inside]
    return [*names, *(f"bottleneck.{name}" for name in NORM), "classifier.weight"]


@pytest.mark.parametrize("dataset", ["sysu", "regdb"])
def test_names_are_the_public_ones(dataset: str) -> None:
    public = public_names(dataset)
    assert len(public) == len(set(public)) == PUBLIC[dataset]
    ours = set(create_baseline("deen", 395, dataset=dataset).state_dict())
    assert ours <= set(public)
    stem = set(Stem("resnet50").state_dict())
    dead = set(public) - ours
    for name in dead:
        where, _, rest = name.partition(".layer")
        in_a_stem = where in ("thermal_module.thermal", "visible_module.visible") and rest
        in_the_base = name.removeprefix("base_resnet.base.") in stem
        cut_off = dataset == "regdb" and name.startswith("base_resnet.base.layer4.")
        assert in_a_stem or in_the_base or cut_off, name


def test_shapes_of_the_public_resnet50_model() -> None:
    shapes = {k: tuple(v.shape) for k, v in create_baseline("deen", 395).state_dict().items()}
    assert shapes["DEE.FC13.weight"] == (256, 1024, 3, 3)
    assert shapes["DEE.FC2.weight"] == (1024, 256, 1, 1)
    assert shapes["MFA1.CNL.theta.weight"] == (64, 256, 1, 1)
    assert shapes["MFA2.PNL.g.weight"] == (128, 256, 1, 1)
    assert shapes["MFA3.PNL.W.0.weight"] == (1024, 256, 1, 1)
    assert shapes["classifier.weight"] == (395, 2048)


@pytest.mark.parametrize("dataset", ["sysu", "regdb"])
def test_load_official(dataset: str, tmp_path: Path) -> None:
    source = small(dataset)
    state = dict(source.state_dict())
    whole = Trunk("small").state_dict()
    stems = ("thermal_module.thermal", "visible_module.visible", "base_resnet.base")
    dead = {f"{stem}.{name}": value for stem in stems for name, value in whole.items()}
    dead = {key: value for key, value in dead.items() if key not in state}
    cmc = np.linspace(0, 1, 20)
    content = {"net": {**state, **dead}, "cmc": cmc, "mAP": cmc.mean(), "mINP": 0.1, "epoch": 7}
    torch.save(content, tmp_path / "best.t")
    model = create_baseline("deen", 4, trunk="small", dataset=dataset)
    report = load_official(model, tmp_path / "best.t")
    assert set(report.loaded) == set(state)
    assert set(report.dead) == set(dead)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    reasons = 3 if dataset == "regdb" else 2
    assert len(set(report.dead.values())) == reasons
    assert str(report).count("left out") == reasons
    other = "sysu" if dataset == "regdb" else "regdb"
    with pytest.raises(MixERValueError, match=r"does not fit this DEEN[\s\S]*MFA3[\s\S]*dataset"):
        load_official(create_baseline("deen", 4, trunk="small", dataset=other), tmp_path / "best.t")


def test_recipe_has_one_erasing_per_dataset() -> None:
    scales = {
        d: load_recipe("deen", d)["augmentation"]["random_erasing"]["scale"]
        for d in ("sysu", "regdb", "llcm")
    }
    assert scales == {"sysu": [0.2, 0.8], "regdb": [0.02, 0.4], "llcm": [0.02, 0.4]}


def test_errors() -> None:
    with pytest.raises(MixERValueError, match=r"drop is 1\.0"):
        create_baseline("deen", 4, trunk="small", drop=1.0)
    data = batch()
    data.labels[0] = 0
    with pytest.raises(MixERValueError, match="order='blocks'"):
        DEENLoop()(small(), data)


# The adapter


@pytest.mark.parametrize("dataset", ["sysu", "regdb"])
def test_adapter_reads_the_unexpanded_rows_and_three_columns(dataset: str) -> None:
    model, data = small(dataset), batch()
    joined: list[Tensor] = []
    model.DEE.register_forward_pre_hook(lambda _, args: joined.append(args[0]))
    wrap_with_mixer(model, seed=0)
    assert model.mixer.adapter.name == "deen"  # type: ignore[union-attr]
    assert resolve_adapter(model).stage_path(model) == (
        f"base_resnet.base.layer{3 if dataset == 'regdb' else 4}"
    )
    model.eval()
    with model.mixer.matching():  # type: ignore[union-attr, operator]
        pooled, _ = model(*data.images.chunk(2))
    record = model.mixer.record  # type: ignore[union-attr]
    torch.testing.assert_close(record.stage_input, joined[0])  # type: ignore[union-attr]
    blocks = record.erased_before.chunk(3, dim=1)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(torch.cat([F.normalize(block) for block in blocks]), pooled)
    # Clones as they start are the stage, so they give the first block again.
    torch.testing.assert_close(record.related_before, blocks[0])  # type: ignore[union-attr]


def test_adapter_embeds_as_the_public_test_does() -> None:
    model = small().eval()
    images = batch().images
    modality = torch.tensor([1, 0, 0, 1, 1, 1, 0, 0])
    found = resolve_adapter(model).embed(model, images, modality)
    assert found.shape == (8, 6 * 128)
    with torch.no_grad():
        for row in range(8):
            expected = torch.zeros(6, 128)
            for view in (images[row : row + 1], images[row : row + 1].flip(3)):
                pooled, feature = model(view, view, 1 + int(modality[row]))
                for branch in range(3):
                    expected[2 * branch] += pooled[branch]
                    expected[2 * branch + 1] += feature[branch]
            torch.testing.assert_close(found[row], expected.flatten())
