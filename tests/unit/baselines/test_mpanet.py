"""MPANet: losses against literal loops, structure, moving copies, odd batches, its adapter."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixer_plugin import wrap_with_mixer
from mixer_plugin.adapters import resolve_adapter
from mixer_plugin.adapters.base import parts_and_mean
from mixer_plugin.baselines import create_baseline, create_loop
from mixer_plugin.baselines.common.losses import accuracy, center_separation_loss
from mixer_plugin.baselines.common.momentum_classifiers import modality_logits
from mixer_plugin.baselines.common.part_pooling import part_means
from mixer_plugin.baselines.common.trunks import Trunk
from mixer_plugin.baselines.loops import Batch
from mixer_plugin.baselines.mpanet import classifier_agreement, part_overlap
from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.errors import MixERValueError
from tests.unit.baselines.small_saai import HEADS, NECK, batch
from tests.unit.baselines.small_saai import small as small_network

small = partial(small_network, "mpanet")


def test_part_overlap_equals_the_loop() -> None:
    torch.manual_seed(0)
    masks = torch.rand(3, 4, 2, 5)
    expected = 0.0
    for image in masks:
        for i in range(4):
            for j in range(i + 1, 4):
                expected += float((image[i] * image[j]).sum())
    assert float(part_overlap(masks)) == pytest.approx(expected / (3 * 6), rel=1e-5)
    assert float(part_overlap(masks[:, :1])) == 0
    assert part_overlap(masks.half()).dtype == torch.float32


def test_classifier_agreement_equals_the_loop_and_its_gradient() -> None:
    torch.manual_seed(0)
    live = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    taught = torch.randn(3, 5, dtype=torch.float64)
    expected = 0.0
    for row, other in zip(live.tolist(), taught.tolist(), strict=True):
        p = [math.exp(x) / sum(map(math.exp, row)) for x in row]
        q = [math.exp(x) / sum(map(math.exp, other)) for x in other]
        expected += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)) / 3
    assert classifier_agreement(live, taught).item() == pytest.approx(expected)
    assert classifier_agreement(live, live.detach()).item() == pytest.approx(0, abs=1e-12)
    # The other direction has another value.
    assert classifier_agreement(taught, live.detach()).item() != pytest.approx(expected, rel=1e-3)
    assert torch.autograd.gradcheck(lambda x: classifier_agreement(x, taught), live)


def test_accuracy() -> None:
    logits = torch.tensor([[0.0, 2.0], [3.0, 1.0], [0.0, 1.0], [5.0, 1.0]])
    assert accuracy(logits, torch.tensor([1, 0, 0, 0])) == 0.75


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("function", [part_means, parts_and_mean])
def test_part_means_equal_the_loop(function: Any, flat: bool) -> None:
    torch.manual_seed(0)
    x, masks = torch.randn(2, 3, 4, 5), torch.rand(2, 2, 4, 5, requires_grad=True)
    found = function(x.requires_grad_(), masks.flatten(2) if flat else masks)
    if function is parts_and_mean:
        torch.testing.assert_close(found[:, 6:], x.mean(dim=(2, 3)))
        assert torch.equal(function(x, None), x.mean(dim=(2, 3)))
        found = found[:, :6]
    assert found.shape == (2, 6)
    for b in range(2):
        for p in range(2):
            expected = (x[b] * masks[b, p]).mean(dim=(1, 2))
            torch.testing.assert_close(found[b, 3 * p : 3 * p + 3], expected)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.any()
    # The related branch must not move the base's masks.
    assert (masks.grad is None) == (function is parts_and_mean)


def test_modality_logits_come_from_the_own_and_the_other_classifier() -> None:
    torch.manual_seed(0)
    net = small(parts=0)
    with torch.no_grad():
        for name in ("visible_classifier_", "infrared_classifier_"):
            getattr(net, name).weight.normal_()
    before = {n: p.clone() for n, p in net.named_parameters() if "classifier_." in n}
    features = torch.randn(5, 128, requires_grad=True)
    infrared = torch.tensor([True, False, False, True, False])
    net.update_rate = 0.25
    visible_logits, infrared_logits, taught = modality_logits(net, features, infrared)
    torch.testing.assert_close(
        visible_logits, features[[1, 2, 4]] @ net.visible_classifier.weight.T
    )
    torch.testing.assert_close(infrared_logits, features[[0, 3]] @ net.infrared_classifier.weight.T)
    moved = {}
    for name in ("visible_classifier", "infrared_classifier"):
        live = getattr(net, name).weight
        moved[name] = 0.75 * before[f"{name}_.weight"] + 0.25 * live
        torch.testing.assert_close(getattr(net, f"{name}_").weight, moved[name])
    assert not taught.requires_grad
    torch.testing.assert_close(taught[:3], features[[1, 2, 4]] @ moved["infrared_classifier"].T)
    torch.testing.assert_close(taught[3:], features[[0, 3]] @ moved["visible_classifier"].T)


@pytest.mark.parametrize("parts", [0, 6])
def test_state_dict_names_are_the_public_ones(parts: int) -> None:
    keys = list(small(parts=parts).state_dict())
    assert [key for key in keys if not key.startswith("backbone.")] == [
        *(["spatial_attention.weight", "spatial_attention.bias"] if parts else []),
        *(f"{head}.weight" for head in HEADS),
        *(f"bn_neck.{name}" for name in NECK),
        "classifier.weight",
    ]


def test_shapes_of_the_public_resnet50_model() -> None:
    model = create_baseline("mpanet", 395)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes["spatial_attention.weight"] == (6, 2048, 1, 1)
    assert shapes["classifier.weight"] == shapes["visible_classifier_.weight"] == (395, 14336)
    assert shapes["bn_neck.running_var"] == (14336,)
    assert shapes["backbone.MAM3.channel_attention.0.weight"] == (64, 1024, 1, 1)
    assert shapes["backbone.MAM4.channel_attention.2.weight"] == (2048, 128, 1, 1)
    # The public model's own count, with the moving copies.
    assert sum(p.numel() for p in model.parameters()) == 52_517_958
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"bn_neck.bias", "visible_classifier_.weight", "infrared_classifier_.weight"}


def test_evaluation_features_parts_first_with_or_without_cameras() -> None:
    images, _, cams = batch()
    model = small().eval()
    captured: list[Tensor] = []
    model.bn_neck.register_forward_pre_hook(lambda _, args: captured.append(args[0].clone()))
    features = model(images)
    assert features.shape == (8, 7 * 128)
    assert torch.equal(features, model(images, cam_ids=cams))
    stage_map = model.backbone(images)
    for p in range(6):
        mask = (stage_map * model.spatial_attention.weight[p]).sum(
            1
        ) + model.spatial_attention.bias[p]
        expected = (mask.sigmoid()[:, None] * stage_map).mean(dim=(2, 3))
        torch.testing.assert_close(captured[0][:, 128 * p : 128 * p + 128], expected)
    torch.testing.assert_close(captured[0][:, -128:], stage_map.mean(dim=(2, 3)))
    assert small(parts=0).eval()(images).shape == (8, 128)
    assert model(images[:1]).shape == (1, 7 * 128)


@pytest.mark.parametrize("parts", [0, 3])
def test_training_loss_is_the_weighted_sum_of_its_terms(parts: int) -> None:
    images, labels, cams = batch()
    weights = {"weight_sep": 0.3, "weight_sid": 0.2, "weight_kl": 1.7}
    model = small(parts=parts, margin=1.5, **weights)
    with torch.no_grad():
        for name in HEADS[2:]:
            getattr(model, name).weight.normal_(std=0.1)
    seen: dict[str, Tensor] = {}
    model.bn_neck.register_forward_hook(
        lambda _, args, out: seen.update(before=args[0].detach(), after=out.detach())
    )
    if parts:
        model.activation.register_forward_hook(lambda *args: seen.update(masks=args[2].detach()))
    loss, metrics = model(images, labels, cam_ids=cams, epoch=3)
    own = ["cc", "acc", "ce", "ce-v", "ce-i", "KL"]
    assert list(metrics) == (["p-reg", *own] if parts else own)
    assert not any(value.requires_grad for value in metrics.values())

    features, infrared = seen["after"], (cams == 3) | (cams == 6)
    expected = dict.fromkeys(own, torch.zeros(()))
    expected["cc"] = center_separation_loss(seen["before"], labels, 0.0, 1.5)
    for row, label, is_infrared in zip(features, labels, infrared, strict=True):
        logits = model.classifier(row).detach()
        expected["acc"] = expected["acc"] + (logits.argmax() == label) / 8
        expected["ce"] = expected["ce"] - logits.log_softmax(0)[label] / 8
        live = model.infrared_classifier if is_infrared else model.visible_classifier
        other = model.visible_classifier_ if is_infrared else model.infrared_classifier_
        logs, taught = live(row).log_softmax(0).detach(), other(row).log_softmax(0)
        name = "ce-i" if is_infrared else "ce-v"
        expected[name] = expected[name] - logs[label] / 4  # four rows of each modality
        expected["KL"] = expected["KL"] + (logs.exp() * (logs - taught)).sum() / 8
    if parts:
        expected["p-reg"] = part_overlap(seen["masks"])
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value.float(), msg=name)
    total = expected["cc"] + expected["ce"] + 1.7 * expected["KL"]
    total = total + 2 * 0.2 * (expected["ce-v"] + expected["ce-i"])
    total = total + 0.3 * expected.get("p-reg", torch.zeros(()))
    torch.testing.assert_close(loss.detach(), total.float())


def test_moving_copies_move_in_training_at_the_loops_rate() -> None:
    images, labels, cams = batch()
    model, loop = small(update_rate=0.5), create_loop("mpanet")
    assert model.mutual_learning
    assert torch.equal(model.visible_classifier_.weight, model.visible_classifier.weight)
    with torch.no_grad():
        model.visible_classifier.weight.add_(1.0)
        model.infrared_classifier.weight.zero_()
    loop.start_epoch(model, 198)  # the 199th of the public loop
    assert model.update_rate == pytest.approx(0.5 * 100 / 200)
    before = {name: getattr(model, name).weight.clone() for name in HEADS}
    loop(model, Batch(images, labels, (cams % 3 == 0).long(), cams)).loss.backward()
    for name in HEADS[:2]:
        expected = 0.75 * before[f"{name}_"] + 0.25 * before[name]
        torch.testing.assert_close(getattr(model, f"{name}_").weight, expected)
        assert getattr(model, f"{name}_").weight.grad is None
        assert torch.equal(getattr(model, name).weight, before[name])
    after = model.visible_classifier_.weight.clone()
    model.eval()(images)
    assert torch.equal(model.visible_classifier_.weight, after)


def test_weights_of_the_trunk(tmp_path: Path) -> None:
    trunk = Trunk("small")
    torch.save(trunk.state_dict(), tmp_path / "trunk.pt")
    loaded = small(weights=tmp_path / "trunk.pt").backbone  # MAM is not in the file: random
    assert torch.equal(loaded.layer4[0].conv2.weight, trunk.layer4[0].conv2.weight)
    assert not torch.equal(small().backbone.conv1.weight, trunk.conv1.weight)


def test_errors_name_the_way_out() -> None:
    images, labels, cams = batch()
    model = small()
    with pytest.raises(MixERValueError, match=r"MPANet got no labels.*eval\(\)"):
        model(images, cam_ids=cams)
    with pytest.raises(MixERValueError, match=r"MPANet got no cam_ids.*Pass cam_ids="):
        model(images, labels)
    with pytest.raises(MixERValueError, match=r"cam_ids of shape \(3,\) for 8 images"):
        model(images, labels, cam_ids=cams[:3])


def test_recipe_is_the_public_yml_files() -> None:
    sysu, regdb = (load_recipe("mpanet", dataset) for dataset in ("sysu", "regdb"))
    assert sysu["image_size"] == [384, 128]
    assert regdb["image_size"] == [256, 128]
    assert sysu["batch"] == {"identities": 16, "visible": 4, "infrared": 4}
    assert regdb["batch"] == {"identities": 12, "visible": 5, "infrared": 5}
    assert sysu["schedule"] == {"epochs": 140, "gamma": 0.1, "milestones": [80, 120]}
    assert regdb["schedule"] == {"epochs": 140, "gamma": 0.1, "milestones": [110]}
    assert sysu["optimizer"] == {"name": "adam", "lr": 0.00035, "weight_decay": 0.0005}
    assert list(sysu["augmentation"]) == [
        "horizontal_flip",
        "pad",
        "random_crop",
        "normalize",
        "random_erasing",
    ]
    assert load_recipe("mpanet", "llcm") == sysu


def test_the_adapter_knows_mpanet_from_saai() -> None:
    for options in ({}, {"parts": 0}, {"modality_attention": 0}, {"dataset": "regdb"}):
        assert resolve_adapter(small(**options)).name == "mpanet"
    saai = create_baseline("saai", 4, trunk="small", image_size=(64, 32))
    assert resolve_adapter(saai).name == "saai"
    model = small()
    model.bn_neck = nn.ModuleDict({"bn_neck_v": model.bn_neck})
    with pytest.raises(MixERValueError, match="No adapter recognises"):
        resolve_adapter(model)


@pytest.mark.parametrize("parts", [0, 2])
def test_the_related_feature_skips_mam4_and_takes_the_bases_masks(parts: int) -> None:
    images, _, cams = batch()
    model = wrap_with_mixer(small(parts=parts), seed=0).eval()
    seen: dict[str, Tensor] = {}
    model.backbone.MAM3.register_forward_hook(lambda *args: seen.update(mam3=args[2]))
    if parts:
        model.activation.register_forward_hook(lambda *args: seen.update(masks=args[2]))
    with model.mixer.matching(), torch.no_grad():
        model(images, cam_ids=cams)
    pooled = model.mixer.record.related_before
    assert pooled.shape == (8, 128 * (parts + 1))
    for row in range(8):
        head = model.mixer.heads["infrared" if cams[row] in (3, 6) else "visible"]
        stage_map = head.stage(seen["mam3"][row : row + 1])[0].detach()
        expected = [(seen["masks"][row, p] * stage_map).mean(dim=(1, 2)) for p in range(parts)]
        expected.append(stage_map.mean(dim=(1, 2)))
        torch.testing.assert_close(pooled[row], torch.cat(expected))
