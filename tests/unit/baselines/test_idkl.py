"""IDKL's network: its modules, its training loss, its recipe and its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_plugin.baselines import create_baseline
from mixer_plugin.baselines.common.losses import batch_hard_triplet_loss
from mixer_plugin.baselines.idkl import ModalityHead, gem, position_mask
from mixer_plugin.baselines.idkl_losses import (
    LOSS_WEIGHTS,
    Split,
    class_alignment_loss,
    graph_alignment_loss,
    purified_entropy_loss,
)
from mixer_plugin.baselines.recipe import load_recipe
from mixer_plugin.errors import MixERValueError
from tests.unit.baselines.small_idkl import batch, small


def test_gem_equals_the_loop_and_has_a_gradient_everywhere() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 4)
    x[0, 0] = -1.0  # nothing above the lower bound
    found = gem(x.requires_grad_())
    for b in range(2):
        for c in range(3):
            cubes = [max(v, 1e-6) ** 3 for v in x[b, c].flatten().tolist()]
            assert found[b, c].item() == pytest.approx((sum(cubes) / 8) ** (1 / 3), rel=1e-5)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    half = x.detach().half().requires_grad_()
    gem(half).sum().backward()
    assert gem(half).dtype == torch.float16
    assert half.grad is not None
    assert half.grad.isfinite().all()


def test_mask_is_a_gate_of_each_position() -> None:
    torch.manual_seed(0)
    mask, x = position_mask(32), torch.randn(2, 32, 2, 3)
    first, second = (mask.channel_attention[i].weight[:, :, 0, 0] for i in (0, 2))
    assert first.shape == (2, 32)
    for y in range(2):
        for z in range(3):
            expected = torch.sigmoid(F.relu(x[1, :, y, z] @ first.T) @ second.T)
            torch.testing.assert_close(mask(x)[1, :, y, z], expected)


def test_modality_head() -> None:
    torch.manual_seed(0)
    head, x = ModalityHead(6).eval(), torch.randn(4, 6)
    hidden = x
    for layer in (head.fc1, head.fc2):
        hidden = hidden @ layer.weight.T + layer.bias
        hidden = F.relu(hidden / (1 + 1e-5) ** 0.5)  # fresh statistics: mean 0, variance 1
    torch.testing.assert_close(head(x), hidden @ head.fc3.weight.T + head.fc3.bias)
    assert torch.equal(head(x), head(x))
    kept: list[Tensor] = []
    head.fc2.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    head.train()(torch.randn(512, 6))
    # Half of what is above zero, which is half, is dropped.
    assert float((kept[0] == 0).float().mean()) == pytest.approx(0.75, abs=0.02)


def test_state_dict_names_are_the_public_ones() -> None:
    keys = list(small().state_dict())
    neck = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    head = [
        *("fc1.weight", "fc1.bias", *(f"bn1.{n}" for n in neck)),
        *("fc2.weight", "fc2.bias", *(f"bn2.{n}" for n in neck)),
        *("fc3.weight", "fc3.bias"),
    ]
    assert [key for key in keys if not key.startswith("backbone.")] == [
        *(f"bn_neck.{n}" for n in neck),
        *(f"bn_neck_sp.{n}" for n in neck),
        "classifier.weight",
        "classifier_sp.weight",
        *(f"D_special.{n}" for n in head),
        "C_sp_f.weight",
        *(f"D_shared_pseu.{n}" for n in head),
    ]
    assert [key for key in keys if key.startswith(("backbone.IN", "backbone.mask"))] == [
        *(f"backbone.IN.{n}" for n in neck),
        *(f"backbone.mask{m}.channel_attention.{i}.weight" for m in (1, 2) for i in (0, 2)),
    ]
    layers = {".".join(key.split(".")[1:4]) for key in keys if ".layer" in key}
    assert layers == {
        "shared_module_fr.model_sh_fr.layer1",
        "shared_module_fr.model_sh_fr.layer2",
        "shared_module_bh.model_sh_bh.layer3",
        "shared_module_bh.model_sh_bh.layer4",
        "special.special_module.layer3",
        "special.special_module.layer4",
    }


def test_shapes_of_the_public_resnet50_model() -> None:
    model = create_baseline("idkl", 395)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes["backbone.shared_module_fr.model_sh_fr.conv1.weight"] == (64, 3, 7, 7)
    assert shapes["backbone.shared_module_bh.model_sh_bh.layer4.0.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["backbone.special.special_module.layer3.5.bn3.running_var"] == (1024,)
    assert shapes["backbone.mask2.channel_attention.0.weight"] == (128, 2048, 1, 1)
    assert shapes["D_special.fc1.weight"] == (100, 2048)
    assert shapes["classifier_sp.weight"] == shapes["C_sp_f.weight"] == (395, 2048)
    # The public model's parameters that a training step moves, and its two frozen biases.
    assert sum(p.numel() for p in model.parameters()) == 49_490_084
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"bn_neck.bias", "bn_neck_sp.bias"}


def test_evaluation_runs_the_shared_branch_alone() -> None:
    images, labels, cams = batch()
    model = small()
    model(images, labels, cam_ids=cams)
    model.eval()
    calls: list[nn.Module] = []
    for part in (model.backbone.special, model.backbone.IN):
        part.register_forward_hook(lambda module, *_: calls.append(module))
    statistics = model.backbone.IN.running_mean.clone()
    features = model(images)
    assert features.shape == (8, 128)
    assert not calls
    stage_map = model.backbone.shared_module_bh(model.backbone.shared_module_fr(images))
    assert stage_map.shape == (8, 128, 8, 4)
    torch.testing.assert_close(features, model.bn_neck(gem(stage_map)))
    # The public model returns logits here.
    torch.testing.assert_close(model(images[2:3]), features[2:3])
    assert torch.equal(features, model(images, cam_ids=cams))
    model.train()(images, labels, cam_ids=cams)
    assert len(calls) == 2
    assert not torch.equal(statistics, model.backbone.IN.running_mean)
    model.backbone.eval()  # frozen statistics of a model in training
    assert model(images, labels, cam_ids=cams)[0].isfinite()
    assert len(calls) == 4


def test_the_specific_branch() -> None:
    images, _, _ = batch()
    backbone = small().backbone
    seen: dict[str, Tensor] = {}
    for name in ("special", "IN", "mask1", "mask2"):
        backbone.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: seen.update({name: out, f"{name} of": args[0]})
        )
    _, specific = backbone(images, specific=True)
    assert seen["IN of"] is seen["special"]
    assert seen["mask1 of"] is seen["IN"]
    assert seen["mask2 of"] is seen["special"]
    torch.testing.assert_close(seen["IN"].mean(dim=(2, 3)), torch.zeros(8, 128), atol=1e-5, rtol=0)
    both = seen["mask1"] * seen["mask2"]
    for found, stage_map in {
        "raw": seen["special"],
        "raw_kept": seen["mask2"] * seen["special"],
        "normed": seen["IN"],
        "normed_kept": seen["mask1"] * seen["IN"],
        "feature": both * seen["special"] + both * seen["IN"],
    }.items():
        torch.testing.assert_close(specific[found], gem(stage_map), msg=found)


@pytest.mark.parametrize("dataset", ["sysu", "regdb", "llcm"])
def test_training_loss_is_the_weighted_sum_of_its_terms(dataset: str) -> None:
    images, labels, cams = batch()
    model = small(dataset=dataset, margin=0.9)
    weights = LOSS_WEIGHTS["regdb" if dataset == "regdb" else "sysu"]
    out: dict[str, Tensor] = {}
    names = ["classifier", "classifier_sp", "D_special", "D_shared_pseu"]
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _, args, found, name=name: out.update({name: found.detach()})
        )
    for name, neck in (("shared", "bn_neck"), ("specific", "bn_neck_sp")):
        model.get_submodule(neck).register_forward_hook(
            lambda _, args, found, name=name: out.update({name: args[0].detach()})
        )
    raw_and_kept: list[Tensor] = []
    model.C_sp_f.register_forward_hook(lambda *args: raw_and_kept.append(args[2].detach()))
    specific: list[Any] = []
    model.backbone.register_forward_hook(lambda *args: specific.append(args[2][1]))
    loss, metrics = model(images, labels, cam_ids=cams, epoch=3)

    infrared = (cams == 3) | (cams == 6)
    v, i = [1, 3, 5, 7], [0, 2, 4, 6]

    def pair(name: str) -> Split:
        return Split(out[name][v], out[name][i], 2)

    def gap(features: Tensor) -> list[float]:
        own = [features[[a, b]].mean(0) for a, b in ((1, 3), (0, 2), (5, 7), (4, 6))]
        return [F.pairwise_distance(own[n], own[n + 1]).item() for n in (0, 2)]

    kept, before = gap(specific[0]["normed_kept"]), gap(specific[0]["normed"])
    expected = {
        "tri": sum(batch_hard_triplet_loss(out[n], labels, 0.9) for n in ("shared", "specific")),
        "IN_p": sum(max(a - b, 0.0) for a, b in zip(kept, before, strict=True)) / 2,
        "F_p": purified_entropy_loss(*raw_and_kept),
        "unad": F.cross_entropy(out["D_special"], infrared.long()),
        "id_pl": F.cross_entropy(out["classifier_sp"], labels),
        "pse": F.cross_entropy(out["D_shared_pseu"], torch.tensor([1, 0, 0, 1, 1, 0, 0, 1])),
        "bg_kl": class_alignment_loss(
            pair("classifier"), pair("classifier_sp"), weights.logits_specific
        ),
        "ce": F.cross_entropy(out["classifier"], labels),
    }
    # Rows of two identities beside each other: 1 and 5, 3 and 7; 0 and 4, 2 and 6.
    beside = {
        name: Split(
            torch.stack([torch.cat([out[name][a], out[name][b]]) for a, b in ((1, 5), (3, 7))]),
            torch.stack([torch.cat([out[name][a], out[name][b]]) for a, b in ((0, 4), (2, 6))]),
            2,
        )
        for name in ("classifier", "classifier_sp")
    }
    expected["sm_kl"] = class_alignment_loss(
        beside["classifier"], beside["classifier_sp"], weights.logits_specific
    )
    if dataset != "regdb":
        expected["soft_dt"] = graph_alignment_loss(pair("shared"), pair("specific"), weights)
    assert set(metrics) == {*expected, "acc"}
    assert not any(value.requires_grad for value in metrics.values())
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], torch.as_tensor(value), msg=name)
    total = sum(expected.values()) - 0.9 * (expected["IN_p"] + expected["F_p"])
    torch.testing.assert_close(loss.detach(), torch.as_tensor(total))
    assert metrics["acc"] == (out["classifier"].argmax(1) == labels).float().mean()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_public_loop_finds_what_it_reads() -> None:
    assert small().mutual_learning is False


def test_loss_weights_and_graph_alignment_follow_the_dataset() -> None:
    for dataset, weights, distalign in [
        ("sysu", "sysu", True),
        ("llcm", "sysu", True),
        ("regdb", "regdb", False),
    ]:
        model = small(dataset=dataset)
        assert (model.loss_weights, model.distalign) == (LOSS_WEIGHTS[weights], distalign)
        recipe = load_recipe("idkl", dataset)
        assert recipe["network"]["loss_weights"] == weights
        assert recipe["network"]["distalign"] == distalign
    chosen = small(dataset="regdb", loss_weights="sysu", distalign=True)
    assert (chosen.loss_weights, chosen.distalign) == (LOSS_WEIGHTS["sysu"], True)


def test_recipe_is_the_public_yml_files() -> None:
    sysu, regdb, llcm = (load_recipe("idkl", dataset) for dataset in ("sysu", "regdb", "llcm"))
    assert sysu["image_size"] == llcm["image_size"] == [384, 144]
    assert regdb["image_size"] == [256, 128]
    assert sysu["batch"] == llcm["batch"] == {"identities": 12, "visible": 5, "infrared": 5}
    assert regdb["batch"] == {"identities": 6, "visible": 5, "infrared": 5}
    assert sysu["schedule"] == {"epochs": 160, "gamma": 0.1, "milestones": [55, 95]}
    assert sysu["optimizer"] == {"name": "adam", "lr": 0.00035, "weight_decay": 0.005}
    # Only SYSU-MM01's evaluation normalises.
    assert [r["evaluation"]["normalize"] for r in (sysu, regdb, llcm)] == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_close_to_float32(dtype: torch.dtype) -> None:
    images, labels, cams = batch()
    steps = []
    for enabled in (False, True):
        model = small()
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype, enabled=enabled):
            loss, metrics = model(images, labels, cam_ids=cams)
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        assert {value.dtype for value in metrics.values()} == {torch.float32}
        steps.append(loss.item())
    assert steps[1] == pytest.approx(steps[0], rel=0.05)


@pytest.mark.parametrize(
    ("labels", "cams"),
    [
        ([0, 0, 1, 1], [3, 1, 1, 1]),  # three visible rows, one infrared
        ([0, 0, 1, 1], [3, 3, 1, 1]),  # even, but each identity in one modality
        ([0, 1, 0, 1], [3, 1, 1, 3]),  # not identity by identity
        ([0, 0, 1, 1, 1, 1], [3, 1, 3, 1, 3, 1]),  # more of one identity
        ([0, 0, 1, 1, 0, 0], [3, 1, 3, 1, 3, 1]),  # an identity in two places
        ([0, 0, 1, 1], [3, 3, 3, 3]),  # one modality
        ([], []),
    ],
)
def test_batches_that_the_losses_cannot_pair(labels: list[int], cams: list[int]) -> None:
    model = small(distalign=False)
    images = torch.randn(len(labels), 3, 64, 32)
    with pytest.raises(MixERValueError, match=r"identity by identity.*order='grouped'"):
        model(images, torch.tensor(labels), cam_ids=torch.tensor(cams))


def test_an_odd_number_of_rows_per_modality() -> None:
    images, labels, cams = torch.randn(6, 3, 64, 32), [0, 0, 1, 1, 2, 2], torch.tensor([3, 1] * 3)
    arguments = (images, torch.tensor(labels))
    with pytest.raises(MixERValueError, match=r"3 rows per modality.*distalign=False"):
        small()(*arguments, cam_ids=cams)
    loss, metrics = small(distalign=False)(*arguments, cam_ids=cams)
    assert loss.isfinite()
    assert "soft_dt" not in metrics
    # Modalities in blocks within an identity are as good as in turns.
    images, labels, cams = batch()
    loss, _ = small()(images, labels, cam_ids=torch.tensor([3, 3, 1, 1] * 2))
    assert loss.isfinite()


def test_errors_name_the_way_out() -> None:
    images, labels, cams = batch()
    with pytest.raises(MixERValueError, match=r"'syus'.*Did you mean 'sysu'"):
        small(loss_weights="syus")
    with pytest.raises(MixERValueError, match="last_stride is 3"):
        small(last_stride=3)
    model = small()
    with pytest.raises(MixERValueError, match=r"IDKL got no labels.*eval\(\)"):
        model(images, cam_ids=cams)
    with pytest.raises(MixERValueError, match=r"IDKL got no cam_ids.*Pass cam_ids="):
        model(images, labels)
