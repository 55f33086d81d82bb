"""SGEIL's network: norms, parts and outputs, names and checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines import create_baseline, load_official
from mixer_plugin.baselines.common.norm_sets import KindBlock, KindStem
from mixer_plugin.baselines.common.trunks import BasicBlock, Bottleneck, Stem, Trunk
from mixer_plugin.baselines.sgeil import SGEILLoop, generalized_mean, shape_parts
from mixer_plugin.errors import MixERRuntimeError, MixERValueError
from tests.unit.baselines.small_sgeil import batch, small, started

SUFFIX = {0: "", 1: "_ir", 3: "_shape"}


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
    source = Trunk("small")
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


NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def public_names(trunk: str) -> list[str]:
    """Every name in the public checkpoint, from the structure of the public code."""
    names = []
    for stem in ("thermal_module.thermal", "visible_module.visible", "base_resnet.base"):
        kinds = ["_shape", "_ir"] if stem.startswith("base") else ["_shape"]
        for name in Trunk(trunk).state_dict():
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
